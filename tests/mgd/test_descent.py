"""`metagrad.descent` is the loop that it says it is."""

import descent_runs as run
import jax
import numpy as np
import optax
import pytest

import metagrad

PROJECTION = lambda meta: (
    meta | {"weight": optax.projections.projection_box(meta["weight"], 0.5, 1.2)}
)


def assert_close(ours, theirs, tolerance=1e-11):
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        scale = np.abs(other).max()
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance * scale)


def by_hand(optimizer, rounds, seeds, projection, key=0):
    """The same descent, written out with JAX's gradient of the unrolled run."""
    meta, values, norms = run.meta0(), [], []
    memory = optimizer.init(meta)
    oracle = jax.jit(jax.value_and_grad(run.unrolled))
    for number in range(rounds):
        outcomes = []
        for seed in range(seeds):
            own = jax.random.fold_in(jax.random.fold_in(jax.random.key(key), number), seed)
            outcomes.append(oracle(meta, *run.problem(number, own)))
        value = sum(value for value, _ in outcomes) / seeds
        gradient = jax.tree.map(lambda *g: sum(g) / seeds, *[grad for _, grad in outcomes])
        changes, memory = optimizer.update(gradient, memory, meta)
        meta = projection(optax.apply_updates(meta, changes))
        values.append(float(value))
        norms.append(float(optax.tree.norm(gradient)))
    return meta, values, norms


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.adam(0.1, eps_root=1e-8),
        optax.sgd(optax.cosine_decay_schedule(0.1, 5), momentum=0.9),
        optax.sign_sgd(0.05),
    ],
    ids=["adam", "momentum with a schedule", "sign"],
)
def test_is_the_loop_by_hand(optimizer):
    with jax.enable_x64(True):
        mg = metagrad.compile(run.step).metagradient(run.outer)
        result = metagrad.descent(
            mg, run.meta0(), run.problem, optimizer, rounds=5, seeds=2, projection=PROJECTION, key=3
        )
        meta, values, norms = by_hand(optimizer, 5, 2, PROJECTION, key=3)
        assert_close(result.meta, meta)
        assert_close(result.history.column("value"), np.array(values))
        assert_close(result.history.column("gradient_norm"), np.array(norms))
        assert result.best.round == int(np.argmin(values))
        assert result.reason == "rounds"


@pytest.fixture(scope="module")
def mg():
    return metagrad.compile(run.step).metagradient(run.outer)


def descend(mg, optimizer=None, problem=run.problem, meta0=None, **options):
    meta0 = run.meta0() if meta0 is None else meta0
    optimizer = optax.sgd(0.01) if optimizer is None else optimizer
    return metagrad.descent(mg, meta0, problem, optimizer, **{"rounds": 3} | options)


def test_rounds_and_seeds_compile_nothing_more():
    traces, compilations = [], []

    def counted(*arguments):
        traces.append(arguments)
        return run.step(*arguments)

    def listen(event, duration, **_):
        if "compile" in event:
            compilations.append(event)

    def callback(round):
        seen.append((len(traces), len(compilations)))

    seen = []
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        counting = metagrad.compile(counted).metagradient(run.outer)
        descend(
            counting, optax.adam(0.1), projection=PROJECTION, rounds=6, seeds=2, callback=callback
        )
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert seen[0][0] > 0 and seen[0][1] > 0
    assert len(set(seen)) == 1, "the first round compiles all there is"


def test_the_best_is_of_what_was_measured(mg):
    result = descend(mg, optax.sgd(0.5), rounds=4)  # too large: values rise
    values = result.history.column("value")
    assert result.best.value == values.min() and result.best.round == values.argmin()
    again = mg(*_with(result.best.meta, result.best.round))
    np.testing.assert_allclose(again.value, result.best.value, rtol=1e-6)


def _with(meta, number, key=0):
    own = jax.random.fold_in(jax.random.fold_in(jax.random.key(key), number), 0)
    state, *rest = run.problem(number, own)
    return state, meta, *rest


def test_goes_on_from_a_result_by_hand(mg):
    """A schedule of optax counts the rounds, and `optimizer_state` has the count."""
    optimizer = optax.sgd(optax.piecewise_constant_schedule(0.1, {2: 0.0}))
    result = descend(mg, optimizer, rounds=4)
    assert [row.step_norm == 0 for row in result.history] == [False, False, True, True]


@pytest.mark.parametrize(
    "options, reason, rounds",
    [
        ({"rounds": 0}, "rounds", 0),
        ({"rounds": 2}, "rounds", 2),
        ({"rounds": 50, "seconds": 0.0}, "seconds", 0),
        ({"rounds": 50, "seconds": 1e-6}, "seconds", 1),
        ({"rounds": 50, "patience": 3, "min_gain": 1e9}, "patience", 4),
        ({"rounds": 50, "callback": lambda round: round.record.round == 1}, "callback", 2),
        ({"rounds": 3, "callback": lambda round: 1}, "rounds", 3),  # True, not what is true
    ],
)
def test_stops(mg, options, reason, rounds):
    result = descend(mg, **options)
    assert (result.reason, len(result.history)) == (reason, rounds)
    assert (result.best is None) == (rounds == 0)


def test_patience_counts_from_the_last_gain():
    from metagrad.mgd.stopping import StoppingRules

    records = [metagrad.mgd.Record(i, v, 1, 1, 1, (v,)) for i, v in enumerate([5, 4, 3.95, 3.9, 2])]
    reasons = lambda rules: [rules.reason(records[:n]) for n in range(len(records) + 1)]
    assert reasons(StoppingRules(9, None, 2, 0.0)) == [None] * 6
    # 3.95 and 3.9 gain less than 0.5 on 4, and 2 comes too late for two rounds of patience
    assert reasons(StoppingRules(9, None, 2, 0.5)) == [None] * 4 + ["patience", None]


def test_a_callback_sees_the_round(mg):
    rounds = []
    result = descend(mg, seeds=2, callback=rounds.append)
    assert [round.record for round in rounds] == list(result.history)
    assert_close(rounds[0].meta, run.meta0())
    assert_close(rounds[1].meta, rounds[0].new_meta)
    assert_close(rounds[-1].new_meta, result.meta)
    assert rounds[-1].best.value == result.best.value
    for round in rounds:
        values = [float(each.value) for each in round.results]
        assert tuple(values) == round.record.values and len(values) == 2
        mean = jax.tree.map(lambda a, b: (a + b) / 2, *[each.grad for each in round.results])
        assert_close(round.gradient, mean, 1e-6)


def test_the_initial_state_may_be_what_is_optimised():
    mg = metagrad.compile(run.step).metagradient(run.outer, wrt="state")
    state0, batches, *outer_args = run.problem(0, jax.random.key(0))
    problem = lambda *_: (run.meta0(), batches, *outer_args)
    result = metagrad.descent(mg, state0, problem, optax.sgd(0.1), rounds=2)
    slope = jax.grad(run.unrolled, argnums=1)
    for _ in range(2):
        gradient = slope(run.meta0(), state0, batches, *outer_args)
        state0 = jax.tree.map(lambda x, g: x - 0.1 * g, state0, gradient)
    assert_close(result.meta, state0, 1e-5)


def test_so_may_several_and_batches():
    mg = metagrad.compile(run.step).metagradient(run.outer, wrt=("batches", "meta"))
    state0, batches, *outer_args = run.problem(0, jax.random.key(0))
    result = metagrad.descent(
        mg, (batches, run.meta0()), lambda *_: (state0, *outer_args), optax.sgd(0.05), rounds=10
    )
    (x, _, order), meta = result.meta
    assert result.best.value < result.history[0].value
    assert (order == batches[2]).all() and order.dtype == batches[2].dtype, "integers stay"
    assert not (x == batches[0]).all() and not (meta["weight"] == 1).all()


def test_a_stream_and_an_auxiliary_value(mg):
    def streamed(number, key):
        state0, batches, *rest = run.problem(number, key)
        return state0, metagrad.Stream(jax.tree.map(np.asarray, batches)), *rest

    outer = lambda state, x, y: (run.outer(state, x, y), state["w"])
    with_aux = metagrad.compile(run.step).metagradient(outer, has_aux=True)
    result = descend(with_aux, problem=streamed)
    assert_close(result.meta, descend(mg).meta, 1e-5)


def test_a_problem_may_ask_for_the_metaparameters(mg):
    seen = []

    def problem(number, key, meta):
        seen.append(meta)
        return run.problem(number, key)

    result = descend(mg, problem=problem, rounds=2)
    assert len(seen) == 2
    assert_close(seen[0], run.meta0())
    assert_close(result.best.meta, seen[result.best.round])


def test_python_numbers_and_numpy_arrays_are_metaparameters(mg):
    meta0 = {"weight": np.ones(run.EXAMPLES, np.float32), "log_rate": -1.5}
    result = descend(mg, meta0=meta0)
    assert_close(result.meta, descend(mg).meta, 0)
    assert result.meta["log_rate"].dtype == np.float32


def test_optimisers_are_passed_value_and_gradient(mg):
    seen = {}

    def update(updates, state, params=None, *, value, grad, **_):
        seen.update(value=value, grad=grad)
        return jax.tree.map(lambda g: -0.01 * g, updates), state

    optimizer = optax.GradientTransformationExtraArgs(lambda params: (), update)
    descend(mg, optimizer, rounds=1)
    assert seen["value"].shape == () and set(seen["grad"]) == {"weight", "log_rate"}
    plateau = optax.chain(optax.sgd(0.01), optax.contrib.reduce_on_plateau(patience=1))
    descend(mg, plateau)


def test_a_compiled_metagradient_will_do(mg):
    state0, *rest = run.problem(0, jax.random.key(0))
    compiled = mg.lower(state0, descend(mg, rounds=0).meta, *rest).compile()
    assert_close(descend(compiled).meta, descend(mg).meta, 0)


def test_multi_steps_pass_value_and_gradient_on(mg):
    plateau = optax.chain(optax.sgd(0.01), optax.contrib.reduce_on_plateau(patience=1))
    every_second = optax.MultiSteps(plateau, 2)
    result = metagrad.descent(mg, run.meta0(), run.problem, every_second, rounds=4)
    meta, state = run.meta0(), every_second.init(run.meta0())
    for round in range(4):
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), round), 0)
        state0, *rest = run.problem(round, key)
        value, gradient, _ = mg(state0, meta, *rest)
        changes, state = every_second.update(gradient, state, meta, value=value)
        meta = optax.apply_updates(meta, changes)
    assert_close(result.meta, meta, 1e-6)
