"""A metagradient in the step or the outer function of another, or in a function that JAX traces."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metagrad

stop = jax.lax.stop_gradient

INNER = metagrad.compile(lambda w, m, b: w - m * b * w).metagradient(lambda w: w**2)
ONES, BATCHES = np.ones(3), np.arange(2)


def by_hand(m):
    """The value of INNER's run, written out, so that JAX differentiates it."""
    w = 1.0
    for b in ONES:
        w = w - m * b * w
    return w**2


def run(step, outer, z):
    m = 0.1
    for b in BATCHES:
        m = step(m, z, b)
    return outer(m)


def assert_same(step, outer, step_by_hand, outer_by_hand, **options):
    result = metagrad.compile(step, **options).metagradient(outer)(0.1, 0.5, BATCHES)
    value, gradient = jax.value_and_grad(lambda z: run(step_by_hand, outer_by_hand, z))(0.5)
    np.testing.assert_allclose(result.value, value, rtol=1e-12)
    np.testing.assert_allclose(result.grad, gradient, rtol=1e-12)
    return result


@pytest.mark.parametrize("ad", ["auto", "jax"])
def test_gradient_in_a_step(ad):
    result = assert_same(
        lambda m, z, b: m - z * stop(INNER(1.0, stop(m), ONES).grad),
        lambda m: m,
        lambda m, z, b: m - z * stop(jax.grad(by_hand)(m)),
        lambda m: m,
        ad=ad,
    )
    np.testing.assert_allclose(result.value, 0.3635320846353, rtol=1e-12)
    np.testing.assert_allclose(result.grad, 0.5270641692705, rtol=1e-12)


def test_gradient_in_a_loss_and_in_the_outer_function():
    def step(gradient, inner):
        loss = lambda m, b: (m * b - stop(inner(stop(m)))) ** 2
        return lambda m, z, b: m - z * gradient(loss)(m, b)

    outer = lambda inner: lambda m: m**2 * stop(inner(stop(m)))
    inner = lambda m: INNER(1.0, m, ONES).grad
    assert_same(
        step(metagrad.grad, inner),
        outer(inner),
        step(jax.grad, jax.grad(by_hand)),
        outer(jax.grad(by_hand)),
    )


def test_value_is_differentiated():
    """By the rule of the inner one; the outer one needs its first derivative only."""
    assert_same(
        lambda m, z, b: m - z * INNER(1.0, m, ONES).value,
        lambda m: INNER(1.0, m, ONES).value,
        lambda m, z, b: m - z * by_hand(m),
        by_hand,
    )


def test_gradient_of_the_value_is_differentiated():
    """It needs a second derivative of the inner run, which goes forward."""
    assert_same(
        lambda m, z, b: m - z * metagrad.grad(lambda m: INNER(1.0, m, ONES).value)(m),
        lambda m: m,
        lambda m, z, b: m - z * jax.grad(by_hand)(m),
        lambda m: m,
    )


def test_whole_metagradient_under_jit():
    """The issue's case: outer closes over what jax.jit traces."""

    def step(w, m, b):
        return w - m * metagrad.grad(lambda w: (w - b) ** 2)(w)

    run = lambda v: (
        metagrad.compile(step).metagradient(lambda w: (w - v) ** 2)(0.0, 0.1, jnp.arange(3.0)).grad
    )
    np.testing.assert_allclose(jax.jit(run)(1.0), -4.576, rtol=1e-12)
