"""`jax.vmap` of a metagradient: one program of several runs, each with its own gradient.

The oracle is `jax.vmap` of `jax.grad` of a `jax.lax.scan` of the plain step.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metagrad

RUNS, STEPS = 3, 5
RANDOM = np.random.default_rng(0)
TABLE = RANDOM.normal(size=(4, 200))  # more than what stays a constant
MASK = np.array([1.0, 0.0, 1.0, 1.0])


def step(state, meta, batch):
    x, y = batch

    def loss(w):
        wave = jnp.sum(jnp.cos(w @ TABLE)) * 1e-3
        return jnp.mean(meta["weight"] * (jnp.tanh(x @ w) - y) ** 2) + wave

    value, gradient = metagrad.value_and_grad(loss)(state["w"])
    noise = jax.random.normal(state["key"], (4,)) * 1e-2
    w = state["w"] - meta["rate"] * (gradient + noise) * state["mask"]
    return {
        "w": w,
        "key": jax.random.fold_in(state["key"], state["t"]),
        "t": state["t"] + 1,
        "mask": state["mask"],
    }, {"loss": value, "t": state["t"]}


def outer(state, scale):
    return jnp.sum(jnp.sin(state["w"]) ** 2 * scale), {"norm": jnp.sum(state["w"] ** 2), "n": 7}


STATE = {"w": RANDOM.normal(size=4), "key": jax.random.key(3), "t": jnp.int32(0), "mask": MASK}
META = {"weight": RANDOM.uniform(0.5, 1.5, size=6), "rate": np.float64(0.1), "unused": np.int32(2)}
BATCHES = RANDOM.normal(size=(STEPS, 6, 4)), RANDOM.normal(size=(STEPS, 6))
SCALE = np.float64(1.5)
ARGUMENTS = STATE, META, BATCHES, SCALE


def several(tree, axis=0):
    """Each float leaf once for each run, different; the axis of the runs at `axis`."""

    def leaf(x):
        if not jnp.issubdtype(x.dtype, jnp.floating):
            return x
        factors = 1 + 0.3 * np.arange(RUNS)
        return jnp.stack([jnp.asarray(x) * f for f in factors], axis)

    return jax.tree.map(leaf, tree)


def axes_of(tree, axis=0):
    return jax.tree.map(lambda x: axis if jnp.issubdtype(x.dtype, jnp.floating) else None, tree)


def floats(tree):
    return [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)]


def by_jax(state, meta, batches, scale):
    """(value, aux, gradients in the float leaves of state, meta and batches, final state, aux)."""
    arguments = (state, meta, batches)
    leaves, structure = jax.tree.flatten(arguments)
    where = [i for i, x in enumerate(leaves) if jnp.issubdtype(x.dtype, jnp.floating)]

    def run(values):
        filled = list(leaves)
        for i, value in zip(where, values):
            filled[i] = value
        s, m, b = jax.tree.unflatten(structure, filled)
        final, aux = jax.lax.scan(lambda s, b: step(s, m, b), s, b)
        value, outer_aux = outer(final, scale)
        return value, (outer_aux, final, aux)

    (value, others), gradients = jax.value_and_grad(run, has_aux=True)([leaves[i] for i in where])
    return value, gradients, others


def ours(schedule=None, **options):
    mg = metagrad.compile(step, has_aux=True, **options).metagradient(
        outer, ("state", "meta", "batches"), has_aux=True, schedule=schedule
    )

    def run(*arguments):
        (value, outer_aux), grad, state, aux = mg(*arguments)
        gradients = [g for g in jax.tree.leaves(grad) if g.dtype != jax.dtypes.float0]
        return value, gradients, (outer_aux, state, aux)

    return run


def numbers(tree):
    data = lambda x: jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x
    return jax.tree.map(data, tree)


def assert_same(got, want, tolerance=1e-11):
    got, want = numbers(got), numbers(want)
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert np.shape(g) == np.shape(w)
        np.testing.assert_allclose(
            g, w, rtol=tolerance, atol=tolerance * np.abs(np.asarray(w)).max(initial=0)
        )


DIFFERENT = {
    "state": (0,),
    "meta": (1,),
    "batches": (2,),
    "outer argument": (3,),
    "all": (0, 1, 2, 3),
}


@pytest.mark.parametrize("which", DIFFERENT.values(), ids=DIFFERENT)
def test_each_run_has_its_own_result(which):
    arguments = [several(x) if i in which else x for i, x in enumerate(ARGUMENTS)]
    axes = [axes_of(x) if i in which else None for i, x in enumerate(ARGUMENTS)]
    got = jax.vmap(ours(), in_axes=axes)(*arguments)
    assert_same(got, jax.vmap(by_jax, in_axes=axes)(*arguments))


@pytest.mark.parametrize("schedule", [metagrad.LazyKary(2), metagrad.StoreAll()], ids=str)
def test_schedules_and_who_differentiates(schedule):
    axes = (None, axes_of(META), None, None)
    got = jax.vmap(ours(schedule, ad="jax"), in_axes=axes)(STATE, several(META), BATCHES, SCALE)
    assert_same(got, jax.vmap(by_jax, in_axes=axes)(STATE, several(META), BATCHES, SCALE))


@pytest.mark.parametrize("around", [jax.jit, lambda f: jax.vmap(f)], ids=["jit", "vmap"])
def test_inside_and_outside_of_other_transformations(around):
    one = lambda run: lambda rate: run(STATE, META | {"rate": rate}, BATCHES, SCALE)[:2]
    rates = np.linspace(0.05, 0.2, RUNS)
    if around is jax.jit:
        assert_same(jax.jit(jax.vmap(jax.jit(one(ours()))))(rates), jax.vmap(one(by_jax))(rates))
    else:
        rates = rates[:, None] * np.ones(2)
        assert_same(around(jax.vmap(one(ours())))(rates), around(jax.vmap(one(by_jax)))(rates))


def test_axes_anywhere():
    """A batch's axis of runs may be in front of the axis of the steps or behind all others."""
    xs, ys = BATCHES
    of_all = lambda run: jax.vmap(lambda x, y: run(STATE, META, (x, y), SCALE), in_axes=(3, 0))(
        several(xs, axis=3), several(ys)
    )
    assert_same(of_all(ours()), of_all(by_jax))


@pytest.mark.parametrize("which", [(1,), (3,)], ids=["meta", "outer argument"])
def test_vector_of_queries(which):
    queries = lambda s, v: jnp.stack([jnp.sum(s**2 * v), jnp.sum(s), jnp.prod(jnp.cos(s))])
    plain = lambda w, rate, x: w - rate * metagrad.grad(lambda w: jnp.sum(jnp.sin(w * x)))(w)
    mg = metagrad.compile(plain).metagradient(queries, ("meta", "batches"))

    def run(rate, xs, v):
        return queries(jax.lax.scan(lambda w, x: (plain(w, rate, x), None), W, xs)[0], v)

    W = RANDOM.normal(size=3)
    arguments = [np.float64(0.3), RANDOM.normal(size=(4, 3)), np.float64(2.0)]
    axes = [0 if i + 1 in which else None for i in range(3)]
    arguments = [several(x) if axis == 0 else x for x, axis in zip(arguments, axes)]
    got = jax.vmap(lambda rate, xs, v: mg(W, rate, xs, v)[:2], axes)(*arguments)
    want = jax.vmap(lambda *a: (run(*a), jax.jacrev(run, (0, 1))(*a)), axes)(*arguments)
    assert_same(got, want)


def test_derivative_of_all_values():
    """`jax.grad` around: each run's value moves by its own gradient."""

    def total(run):
        def function(rates, w):
            values = jax.vmap(
                lambda rate: run({**STATE, "w": w}, META | {"rate": rate}, BATCHES, SCALE)[0]
            )(rates)
            return jnp.sum(jnp.sin(values))

        return function

    arguments = jnp.linspace(0.05, 0.2, RUNS), STATE["w"]
    assert_same(
        jax.value_and_grad(total(ours()), (0, 1))(*arguments),
        jax.value_and_grad(total(by_jax), (0, 1))(*arguments),
    )


def test_shared_leaves_are_there_once():
    """What no run changes, and what changes alike, has no axis of the runs in the program."""
    plain = lambda s, rate, x: {
        "w": s["w"] - rate * metagrad.grad(lambda w: jnp.sum((w * s["data"] - x) ** 2))(s["w"]),
        "data": s["data"],
        "t": s["t"] + 1,
    }
    mg = metagrad.compile(plain).metagradient(lambda s: jnp.sum(s["w"] ** 2))
    state = {"w": jnp.ones(2), "data": jnp.arange(2.0), "t": 0}
    text = (
        jax.jit(jax.vmap(lambda rate: mg(state, rate, jnp.ones((4, 2))).grad))
        .lower(jnp.ones(RUNS) * 0.1)
        .as_text()
    )
    main = next(line for line in text.splitlines() if "@metagradient" in line and "call" in line)
    operands = main.split(": (")[1].split(")")[0].split(", ")
    # data, t, w of each run, the rates, batches
    shapes = ["2xf64", "i64", f"{RUNS}x2xf64", f"{RUNS}xf64", "4x2xf64"]
    assert operands == [f"tensor<{shape}>" for shape in shapes]


@pytest.mark.parametrize(
    "optimiser",
    [optax.adam(1e-2, eps_root=1e-8), optax.sgd(0.1, momentum=0.9)],
    ids=["adam", "sgd"],
)
def test_tasks_with_an_optimiser(optimiser):
    """MAML's inner runs: one start, a batch of tasks."""

    def inner(gradient):
        def one(state, _, batch):
            parameters, opt = state
            loss = lambda p: jnp.mean((jnp.tanh(batch[0] * p["a"] + p["b"]) - batch[1]) ** 2)
            updates, opt = optimiser.update(gradient(loss)(parameters), opt)
            return optax.apply_updates(parameters, updates), opt

        return one

    measure = lambda state, task: jnp.mean((jnp.tanh(task[0] * state[0]["a"]) - task[1]) ** 2)
    mg = metagrad.compile(inner(metagrad.grad)).metagradient(measure, "state")
    start = {"a": RANDOM.normal(size=5), "b": np.zeros(5)}
    tasks = RANDOM.normal(size=(RUNS, STEPS, 5)), RANDOM.normal(size=(RUNS, STEPS, 5))

    def ours_of(tasks, start):
        one = lambda task: mg((start, optimiser.init(start)), None, task, (task[0][0], task[1][0]))
        results = jax.vmap(one)(tasks)
        return jnp.mean(results.value), jax.tree.map(lambda g: jnp.mean(g, 0), results.grad[0])

    def by_hand(tasks, start):
        def one(task):
            body = lambda s, b: (inner(jax.grad)(s, None, b), None)
            final, _ = jax.lax.scan(body, (start, optimiser.init(start)), task)
            return measure(final, (task[0][0], task[1][0]))

        return jnp.mean(jax.vmap(one)(tasks))

    assert_same(jax.jit(ours_of)(tasks, start), jax.value_and_grad(by_hand, 1)(tasks, start))


def test_python_numbers_and_one_step():
    mg = metagrad.compile(lambda w, m, b: w - m * metagrad.grad(lambda w: jnp.sin(w * b))(w))
    run = mg.metagradient(lambda w: w**2)
    got = jax.vmap(lambda m: run(1.0, m, np.ones(1))[:2])(jnp.array([0.1, 0.2]))
    want = jax.vmap(jax.value_and_grad(lambda m: (1.0 - m * jnp.cos(1.0)) ** 2))(
        jnp.array([0.1, 0.2])
    )
    assert_same(got, want)


def test_prints_of_each_run(capfd):
    def printing(w, m, b):
        jax.debug.print("w {}", w)
        return w - m * b

    mg = metagrad.compile(printing).metagradient(lambda w: w**2)
    got = jax.vmap(lambda m: mg(1.0, m, np.arange(2.0)).grad)(jnp.array([0.5, 1.0]))
    jax.effects_barrier()
    np.testing.assert_allclose(got, [-1.0, 0.0])
    lines = capfd.readouterr().out.split("\n")
    assert sorted(line for line in lines if line) == ["w 1.0", "w 1.0", "w 1.0", "w 1.0"]


def test_value_that_is_closed_over():
    def run(v, m):
        one = lambda w, m, b: w - m * metagrad.grad(lambda w: (w - v * b) ** 2)(w)
        mg = metagrad.compile(one).metagradient(lambda w: w**2)
        return mg(0.0, m, jnp.arange(3.0)).grad

    def by_hand(v, m):
        def final(m):
            w = 0.0
            for b in range(3):
                w = w - m * 2 * (w - v * b)
            return w**2

        return jax.grad(final)(m)

    rates = jnp.array([0.1, 0.2])
    assert_same(
        jax.jit(jax.vmap(run, (None, 0)))(1.0, rates), jax.vmap(by_hand, (None, 0))(1.0, rates)
    )
    with pytest.raises(NotImplementedError, match=r"closes over\. Pass it in meta"):
        jax.vmap(run, (0, None))(rates, 0.1)


def test_collective_over_the_mapped_axis():
    average = metagrad.compile(lambda w, m, b: w - jax.lax.pmean(m, "runs") * w)
    mg = average.metagradient(lambda w: w**2)
    with pytest.raises(NotImplementedError, match="an axis of a shard_map or a vmap around"):
        jax.vmap(lambda m: mg(1.0, m, np.ones(2)).grad, axis_name="runs")(jnp.ones(RUNS))


def test_a_file_has_one_run(tmp_path):
    mg = metagrad.compile(lambda w, m, b: w - m * b * w).metagradient(lambda w: w**2)
    path = tmp_path / "run.metagrad"
    mg.lower(1.0, 0.1, np.ones(3)).compile().export(path, platforms=("cpu",))
    loaded = metagrad.load(path)
    gradient = lambda m: loaded(1.0, m, np.ones(3)).grad
    with pytest.raises(NotImplementedError, match=r"loaded from a file.*jax\.lax\.map"):
        jax.vmap(gradient)(jnp.ones(2))
    with pytest.raises(NotImplementedError, match="of a metagradient that is not loaded"):
        jax.jacfwd(gradient)(0.1)
