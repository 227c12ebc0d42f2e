"""Integer counts: the update, and the gradient of the surrogate step."""

import functools
import operator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import regression as run
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


@pytest.mark.parametrize("chunk", [None, 5, 4, 100])
@pytest.mark.parametrize("at", [0, 5, -2, run.STEPS - 1])
@pytest.mark.parametrize("streamed", [False, True])
def test_the_surrogate_is_exact(at, chunk, streamed):
    if streamed and chunk != 5:
        pytest.skip("one size is enough")
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
