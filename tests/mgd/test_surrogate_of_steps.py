"""The surrogate at several steps: exact, one program, the sum of those at one step."""

import functools
import operator

import descent_runs as run
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_counts import losses, step_with_extra
from test_descent import assert_close

import metagrad
from metagrad import mgd

STEP = functools.partial(step_with_extra, metagrad.grad)
OF = {"params": lambda state: state["w"]}


def problem():
    x, y, clean, target, order = run.draw(jax.random.key(0))
    zeros = jnp.zeros(run.FEATURES)
    return {"w": zeros, "velocity": zeros}, (x[order], y[order], order), (x, y), clean, target


def by_jax(z, at, state, batches, pool, *outer_args):
    for t in range(run.STEPS):
        extra = (lambda w: jnp.sum(z * losses(w, pool))) if t in at else mgd.no_extra
        batch = jax.tree.map(operator.itemgetter(t), batches)
        state = step_with_extra(jax.grad, state, None, batch, extra)
    return run.outer(state, *outer_args)


@pytest.mark.parametrize("at", [(0, 3), (-1, 5, 2)])
@pytest.mark.parametrize("streamed", [False, True])
def test_several_steps_are_exact(at, streamed):
    with jax.enable_x64(True):
        state, batches, pool, *outer_args = problem()
        mg = mgd.surrogate(STEP, losses, run.outer, at=at, chunk=5, **OF)
        given = metagrad.Stream(jax.tree.map(np.asarray, batches)) if streamed else batches
        counts = jnp.ones(run.EXAMPLES)
        value, gradient, final = mg(state, counts, given, pool, *outer_args)
        steps = {t % run.STEPS for t in at}
        expected = jax.value_and_grad(by_jax)(
            jnp.zeros(run.EXAMPLES), steps, state, batches, pool, *outer_args
        )
        assert_close((value, gradient), expected)
        assert np.abs(gradient).min() > 0
        assert float(run.outer(final, *outer_args)) == pytest.approx(float(value), rel=1e-12)


def test_the_order_of_the_steps_does_not_matter():
    arguments = problem()
    arguments = arguments[0], jnp.ones(run.EXAMPLES), *arguments[1:]
    first, second = (
        mgd.surrogate(STEP, losses, run.outer, at=at, **OF)(*arguments).grad
        for at in ((1, -2), np.array([-2, 1]))
    )
    assert np.array_equal(first, second)


@pytest.mark.parametrize(
    "at, message",
    [
        ((0, run.STEPS), "is not within the"),
        ((1, 1 - run.STEPS), "has a step twice"),
        ((), "no step"),
    ],
)
def test_steps_that_cannot_be(at, message):
    arguments = problem()
    with pytest.raises(ValueError, match=message):
        mgd.surrogate(STEP, losses, run.outer, at=at, **OF)(
            arguments[0], jnp.ones(run.EXAMPLES), *arguments[1:]
        )
