"""Data selection: the order that counts give, and the rounds of `select`."""

import functools
import operator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metagrad
from metagrad.applications import data_selection

N, FEATURES, STEPS, BATCH = 24, 3, 10, 6


def losses(params, examples):
    x, y = examples
    return jnp.tanh(x @ params["w"] - y) ** 2


def step(state, counts, batch, extra=metagrad.mgd.no_extra, gradient_of=metagrad.grad):
    loss = lambda params: jnp.mean(losses(params, batch)) + extra(params)
    gradient = gradient_of(loss)(state["params"])
    velocity = jax.tree.map(lambda v, g: 0.9 * v + g, state["velocity"], gradient)
    params = jax.tree.map(lambda p, v: p - 0.2 * v, state["params"], velocity)
    return {"params": params, "velocity": velocity}


def outer(state, x, y):
    return jnp.mean((x @ state["params"]["w"] - y) ** 2)


def start(key):
    params = {"w": 0.3 * jax.random.normal(key, (FEATURES,))}
    return {"params": params, "velocity": jax.tree.map(jnp.zeros_like, params)}


def problem():
    """(pool, clean data): of the pool's second half the targets have the wrong sign."""
    keys = jax.random.split(jax.random.key(0), 2)
    truth = jnp.array([0.5, -1.0, 0.8])
    x, clean = (jax.random.normal(key, (n, FEATURES)) for key, n in zip(keys, (N, 9)))
    sign = jnp.where(jnp.arange(N) < N // 2, 1.0, -1.0)
    return (x, sign * (x @ truth)), (clean, clean @ truth)


def select(**changes):
    pool, clean = problem()
    arguments = {
        "params": operator.itemgetter("params"),
        "steps": STEPS,
        "batch_size": BATCH,
        "rounds": 3,
        "at": (-4, -1),
        "progress": False,
    }
    outer_args = changes.pop("outer_args", clean)
    of_examples = changes.pop("losses", losses)
    return data_selection.select(
        step, of_examples, outer, start, pool, outer_args, **(arguments | changes)
    )


class TestOrder:
    def test_an_epoch_has_each_example_as_often_as_its_count(self):
        counts = np.array([3, 0, 1, 2])
        drawn = data_selection.order(counts, 6, 4, 0)
        assert drawn.shape == (6, 4)
        assert drawn.dtype == np.int32
        for epoch in drawn.reshape(4, 6):
            assert np.array_equal(np.bincount(epoch, minlength=4), counts)

    def test_epochs_have_orders_of_their_own_and_seeds_too(self):
        first, second = data_selection.order(np.ones(50), 2, 50, 0)
        assert not np.array_equal(first, second)
        assert np.array_equal(first, data_selection.order(np.ones(50), 1, 50, 0)[0])
        assert not np.array_equal(first, data_selection.order(np.ones(50), 1, 50, 1)[0])

    def test_fractions_are_probabilities(self):
        drawn = data_selection.order(np.array([1.0, 0.25, 0.75]), 100, 200, 0)
        shares = np.bincount(drawn.ravel()) / drawn.size
        assert shares == pytest.approx([0.5, 0.125, 0.375], abs=0.01)

    def test_small_counts_are_shares(self):
        drawn = data_selection.order(np.array([1e-9, 3e-9]), 100, 200, 0)
        assert np.bincount(drawn.ravel()) / drawn.size == pytest.approx([0.25, 0.75], abs=0.01)

    def test_the_last_epoch_is_cut(self):
        assert data_selection.order(np.ones(7), 1, 3, 0).shape == (1, 3)

    @pytest.mark.parametrize(
        "counts, message",
        [
            ([0, 0], "all counts are zero"),
            ([1, -1], "not negative"),
            ([1, np.nan], "finite"),
            ([[1, 2]], "one row"),
        ],
    )
    def test_counts_that_cannot_be(self, counts, message):
        with pytest.raises(ValueError, match=message):
            data_selection.order(counts, 2, 2)

    @pytest.mark.parametrize("sizes", [(0, 4), (4, 0), (-1, 4)])
    def test_a_run_without_steps_or_examples(self, sizes):
        with pytest.raises(ValueError, match="must be at least 1"):
            data_selection.order([1, 2], *sizes)


class Recorder:
    """A `batches` that keeps the orders which it was called with."""

    def __init__(self, make=data_selection.rows):
        self.make, self.orders = make, []

    def __call__(self, pool, order):
        self.orders.append(order)
        return self.make(pool, order)


def test_a_round_moves_against_the_sign_of_jaxs_gradient():
    starts, recorder = [], Recorder()
    pool, clean = problem()

    def noted_start(key):
        starts.append(start(key))
        return starts[-1]

    first = np.arange(N) % 3
    selection = data_selection.select(
        step, losses, outer, noted_start, pool, clean, params=operator.itemgetter("params"),
        steps=STEPS, batch_size=BATCH, rounds=1, at=(-4, -1), probability=1.0, counts=first,
        batches=recorder, progress=False,
    )  # fmt: skip

    def unrolled(z):
        state = starts[0]
        for t, rows in enumerate(recorder.orders[0]):
            extra = lambda params: jnp.sum(z * losses(params, pool))
            batch = data_selection.rows(pool, rows)
            added = extra if t in (STEPS - 4, STEPS - 1) else metagrad.mgd.no_extra
            state = step(state, None, batch, added, jax.grad)
        return outer(state, *clean)

    value, gradient = jax.value_and_grad(unrolled)(jnp.zeros(N))
    assert np.array_equal(selection.counts, np.maximum(0, first - np.sign(gradient)))
    assert selection.history[0].value == pytest.approx(float(value), rel=1e-5)


def test_wrong_examples_go_and_the_loss_falls():
    selection = select(rounds=25, probability=0.3)
    right, wrong = np.split(selection.counts, 2)
    assert right.sum() > 5 * wrong.sum()
    assert selection.history[-1].value < 0.2 * selection.history[0].value
    assert np.array_equal(selection.kept, np.flatnonzero(selection.counts))
    assert selection.counts.dtype == selection.best_counts.dtype == np.int64
    drawn = selection.order(STEPS, BATCH, 3)
    assert np.array_equal(drawn, data_selection.order(selection.counts, STEPS, BATCH, 3))
    assert f"{len(selection.kept)} of {N} examples" in repr(selection)


def test_the_key_decides_everything():
    same, again, other = (select(key=key, rounds=4) for key in (1, 1, 2))
    assert np.array_equal(same.counts, again.counts)
    assert np.array_equal(same.history.column("value"), again.history.column("value"))
    assert not np.array_equal(same.counts, other.counts)


@pytest.mark.parametrize("at", [(-4, -1), -3])
def test_it_goes_on_where_it_was(tmp_path, at):
    whole = select(rounds=4, at=at)
    select(rounds=2, at=at, resume_dir=tmp_path)
    resumed = select(rounds=4, at=at, resume_dir=tmp_path)
    assert np.array_equal(resumed.counts, whole.counts)
    assert np.array_equal(resumed.history.column("value"), whole.history.column("value"))


def test_other_steps_or_losses_do_not_go_on(tmp_path):
    select(rounds=1, resume_dir=tmp_path)
    with pytest.raises(metagrad.JournalError, match="at="):
        select(rounds=2, resume_dir=tmp_path, at=(-3, -1))
    with pytest.raises(metagrad.JournalError, match="training step or the outer function"):
        select(rounds=2, resume_dir=tmp_path, losses=lambda *given: 2 * losses(*given))


def test_streams_give_what_arrays_give():
    stream = lambda pool, order: metagrad.Stream(jax.tree.map(np.asarray, pool), order)
    arrays, streamed = select(), select(batches=stream)
    assert np.array_equal(arrays.counts, streamed.counts)
    assert streamed.history.column("value") == pytest.approx(
        arrays.history.column("value"), rel=1e-5
    )


def test_no_count_is_above_the_most():
    assert select(rounds=6, probability=1.0, most=2).counts.max() == 2


def test_seeds_and_a_drawn_outer_loss():
    x, y = problem()[1]
    drawn = []

    def outer_args(round, key):
        rows = jax.random.choice(key, len(x), (4,), replace=False)
        drawn.append((round, tuple(np.asarray(rows))))
        return x[rows], y[rows]

    selection = select(rounds=2, seeds=2, outer_args=outer_args)
    assert selection.history.column("values").shape == (2, 2)
    assert [round for round, _ in drawn[-4:]] == [0, 0, 1, 1]
    assert len(set(drawn)) == 4


def test_later_rounds_trace_nothing():
    traces, after = [], []

    @functools.wraps(step)
    def counted(*arguments):
        traces.append(1)
        return step(*arguments)

    pool, clean = problem()
    data_selection.select(
        counted, losses, outer, start, pool, clean, params=operator.itemgetter("params"),
        steps=STEPS, batch_size=BATCH, rounds=3, at=(-4, -1), progress=False,
        callback=lambda round: after.append(len(traces)),
    )  # fmt: skip
    assert after[0] > 0
    assert after == [after[0]] * 3


def test_a_callback_ends_it_and_sees_the_counts():
    seen = []

    def callback(round):
        seen.append(np.asarray(round.new_meta))
        return len(seen) == 2

    selection = select(callback=callback)
    assert len(selection.history) == 2
    assert np.array_equal(selection.counts, seen[-1])


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"counts": np.ones(3)}, "24 whole numbers"),
        ({"counts": np.full(N, 0.5)}, "24 whole numbers"),
        ({"counts": -np.ones(N)}, "24 whole numbers"),
        ({"counts": np.zeros(N)}, "all counts are zero"),
        ({"most": 0}, "most=0"),
        ({"most": 2, "counts": np.full(N, 3)}, "most=2, and there is a count of 3"),
        ({"at": (0, STEPS)}, "is not within the 10 steps"),
        ({"probability": 2.0}, "probability=2.0"),
    ],
)
def test_arguments_that_cannot_be(changes, message):
    with pytest.raises(ValueError, match=message):
        select(**changes)


def test_a_pool_of_several_lengths():
    with pytest.raises(ValueError, match="leaves of pool"):
        data_selection.select(
            step, losses, outer, start, (jnp.ones((4, 3)), jnp.ones(5)), problem()[1],
            params=operator.itemgetter("params"), steps=2, batch_size=2, rounds=1,
        )  # fmt: skip


def test_the_state_is_no_start():
    pool, clean = problem()
    with pytest.raises(TypeError, match=r"start must be a function, .* it is a dict"):
        data_selection.select(
            step,
            losses,
            outer,
            start(jax.random.key(0)),
            pool,
            clean,
            params=lambda state: state["params"],
            steps=STEPS,
            batch_size=BATCH,
            rounds=1,
        )
