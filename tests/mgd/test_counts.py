"""Integer counts: the update, and the gradient of the surrogate step."""

import functools
import operator

import descent_runs as run
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_descent import assert_close

import metagrad
from metagrad import mgd


def losses(w, examples):
    x, y = examples
    return jnp.tanh(x @ w - y) ** 2


def step_with_extra(gradient_of, state, meta, batch, extra=mgd.no_extra):
    x, y, _ = batch
    loss = lambda w: jnp.mean(losses(w, (x, y))) + extra(w)
    velocity = 0.9 * state["velocity"] + gradient_of(loss)(state["w"])
    return {"w": state["w"] - 0.2 * velocity, "velocity": velocity}


def by_jax(z, at, state, batches, pool, *outer_args):
    """The run with the whole surrogate in it, unrolled."""
    for t in range(run.STEPS):
        extra = (lambda w: jnp.sum(z * losses(w, pool))) if t == at else mgd.no_extra
        batch = jax.tree.map(operator.itemgetter(t), batches)
        state = step_with_extra(jax.grad, state, None, batch, extra)
    return run.outer(state, *outer_args)


@pytest.mark.parametrize(
    "at, chunk, streamed",
    [(0, None, False), (5, 5, False), (5, 5, True), (-2, 4, False), (run.STEPS - 1, 100, True)],
)
def test_the_surrogate_is_exact(at, chunk, streamed):
    with jax.enable_x64(True):
        x, y, clean, target, order = run.draw(jax.random.key(0))
        zeros = jnp.zeros(run.FEATURES)
        state, batches = {"w": zeros, "velocity": zeros}, (x[order], y[order], order)
        step = functools.partial(step_with_extra, metagrad.grad)
        mg = mgd.surrogate(
            step, losses, run.outer, at=at, params=lambda state: state["w"], chunk=chunk
        )
        given = metagrad.Stream(jax.tree.map(np.asarray, batches)) if streamed else batches
        value, gradient, _ = mg(state, jnp.ones(run.EXAMPLES), given, (x, y), clean, target)
        z = jnp.zeros(run.EXAMPLES)
        at = at % run.STEPS
        expected = jax.value_and_grad(by_jax)(z, at, state, batches, (x, y), clean, target)
        assert_close((value, gradient), expected)
        assert np.abs(gradient).min() > 0


def test_the_update_of_counts():
    counts = {"a": jnp.array([0.0, 1.0, 5.0]), "b": jnp.full((200, 2), 3.0)}
    gradient = {"a": jnp.array([2.0, 0.0, -0.1]), "b": jnp.ones((200, 2))}
    always = mgd.integer_counts(1.0)
    changes, _ = always.update(gradient, always.init(counts), counts)
    np.testing.assert_array_equal(changes["a"], [0, 0, 1])
    np.testing.assert_array_equal(changes["b"], np.full((200, 2), -1))

    def rounds(key):
        update, new = mgd.integer_counts(0.3, key=key), counts
        state = update.init(new)
        for _ in range(3):
            changes, state = update.update(gradient, state, new)
            new = jax.tree.map(jnp.add, new, changes)
        return jax.tree.map(np.asarray, new)

    once, again, other = rounds(0), rounds(jax.random.key(0)), rounds(1)
    np.testing.assert_array_equal(once["b"], again["b"])
    assert (once["b"] != other["b"]).any()
    fewer = 3 - once["b"]
    assert set(np.unique(fewer)) == {0, 1, 2, 3}
    assert abs(fewer.mean() - 0.9) < 5 * (3 * 0.3 * 0.7 / fewer.size) ** 0.5


def test_the_probability_may_be_a_schedule():
    update = mgd.integer_counts(lambda count: jnp.where(count < 2, 0.0, 1.0))
    counts, gradient = jnp.ones(4), -jnp.ones(4)
    state, new = update.init(counts), []
    for _ in range(3):
        changes, state = jax.jit(update.update)(gradient, state, counts)
        new.append(float(changes.sum()))
    assert new == [0, 0, 4]


def test_counts_that_are_refused():
    with pytest.raises(ValueError, match=r"probability=1.5 is not between 0 and 1"):
        mgd.integer_counts(1.5)
    with pytest.raises(TypeError, match="key must be an integer"):
        mgd.integer_counts(0.5, key="a")
    update = mgd.integer_counts(0.5)
    with pytest.raises(ValueError, match="integer_counts needs the counts"):
        update.update(jnp.ones(2), update.init(jnp.ones(2)))


PLAIN = functools.partial(step_with_extra, metagrad.grad)


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"at": 9}, ValueError, "at=9 is none of the 8 steps"),
        ({"at": -9}, ValueError, "at=-9 is none of the 8 steps"),
        ({"chunk": 0}, ValueError, "chunk=0 must be at least 1"),
        ({"losses": None}, TypeError, "losses must be a function, got None"),
        ({"params": lambda state: (state["w"],)}, ValueError, "extra was called with"),
        ({"counts": jnp.ones(5)}, ValueError, r"pool\[0\] has shape \(12, 3\), .* 5 counts"),
        ({"counts": jnp.ones((12, 2))}, ValueError, r"counts must have the shape \[n\], got"),
    ],
)
def test_surrogates_that_are_refused(change, error, message):
    x, y, clean, target, order = run.draw(jax.random.key(0))
    state = dict.fromkeys(("w", "velocity"), jnp.zeros(run.FEATURES))
    options = {"at": 5, "params": lambda state: state["w"], "losses": losses} | change
    counts = options.pop("counts", jnp.ones(run.EXAMPLES))
    with pytest.raises(error, match=message):
        mg = mgd.surrogate(PLAIN, outer=run.outer, **options)
        mg(state, counts, (x[order], y[order], order), (x, y), clean, target)


def test_counts_descend():
    """Batches are drawn with the counts, which stay integers and lower the loss."""
    x, y, clean, target, _ = run.draw(jax.random.key(2))
    y = y.at[:4].add(8.0)  # four wrong labels
    state = dict.fromkeys(("w", "velocity"), jnp.zeros(run.FEATURES))

    def problem(number, key, meta):
        chosen = jax.random.choice(
            key, run.EXAMPLES, (run.STEPS, run.BATCH), p=meta / jnp.sum(meta)
        )
        return state, (x[chosen], y[chosen], chosen), (x, y), clean, target

    mg = mgd.surrogate(PLAIN, losses, run.outer, at=-1, params=lambda state: state["w"])
    counts = jnp.full(run.EXAMPLES, 3.0)
    result = metagrad.descent(mg, counts, problem, mgd.integer_counts(0.5), rounds=12, seeds=2)
    assert (result.meta == jnp.round(result.meta)).all() and (result.meta >= 0).all()
    assert result.meta[:4].mean() < result.meta[4:].mean()
    values = result.history.column("value")
    assert values[-4:].mean() < values[:4].mean()


@pytest.mark.parametrize("at", [2, -1])
def test_a_state_with_counters_and_keys(at):
    """As of Adam: their cotangents are of the type float0."""
    optimizer = optax.adam(0.1, eps_root=1e-8)

    def step_of(gradient_of):
        def step(state, counts, batch, extra=mgd.no_extra):
            w, memory, key = state
            x, y, _ = batch
            loss = lambda w: jnp.mean(losses(w, (x, y))) + extra(w)
            changes, memory = optimizer.update(gradient_of(loss)(w), memory, w)
            key, own = jax.random.split(key)
            noise = 0.01 * jax.random.normal(own, w.shape, w.dtype)
            return optax.apply_updates(w, changes) + noise, memory, key

        return step

    with jax.enable_x64(True):
        x, y, clean, target, order = run.draw(jax.random.key(0))
        w = jnp.zeros(run.FEATURES)
        state, batches = (w, optimizer.init(w), jax.random.key(3)), (x[order], y[order], order)
        outer = lambda state, x, y: jnp.mean((x @ state[0] - y) ** 2)

        def by_hand(z):
            now, step = state, step_of(jax.grad)
            for t in range(run.STEPS):
                extra = mgd.no_extra
                if t == at % run.STEPS:
                    extra = lambda w: jnp.sum(z * losses(w, (x, y)))
                now = step(now, None, jax.tree.map(operator.itemgetter(t), batches), extra)
            return outer(now, clean, target)

        mg = mgd.surrogate(
            step_of(metagrad.grad), losses, outer, at=at, params=operator.itemgetter(0), chunk=5
        )
        value, gradient, _ = mg(state, jnp.ones(run.EXAMPLES), batches, (x, y), clean, target)
        expected = jax.value_and_grad(by_hand)(jnp.zeros(run.EXAMPLES))
        assert_close((value, gradient), expected)
