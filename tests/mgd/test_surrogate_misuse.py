"""Arguments of `surrogate` that would fail late, or give counts that say nothing."""

import jax.numpy as jnp
import pytest

import metagrad

POOL = jnp.arange(6.0)
BATCHES = jnp.ones((5, 2))


def losses(w, examples):
    return (w - examples) ** 2


def step(w, counts, batch, extra=metagrad.mgd.no_extra):
    return w - 0.1 * metagrad.grad(lambda w: jnp.mean(losses(w, batch)) + extra(w))(w)


def outer(w):
    return (w - 2.0) ** 2


def gradient(at=-2, *, step=step, losses=losses, outer=outer):
    mg = metagrad.mgd.surrogate(step, losses, outer, at=at, params=lambda w: w, chunk=4)
    return mg(0.0, jnp.ones(6), BATCHES, POOL).grad


@pytest.mark.parametrize("at", [-1, -2, (1, 3)])
def test_a_mean_loss_is_refused(at):
    with pytest.raises(
        ValueError, match=r"the loss of each example, of shape \(4,\) .* shape \(\)"
    ):
        gradient(at, losses=lambda w, examples: jnp.mean(losses(w, examples)))


@pytest.mark.parametrize("at", [-1, -2, (1, 3)])
def test_a_step_that_does_not_add_extra_is_refused(at):
    with pytest.raises(ValueError, match=r"step never calls its fourth argument, extra"):
        gradient(at, step=lambda w, counts, batch, extra: step(w, counts, batch))


@pytest.mark.parametrize("at", [-2, (1, 3)])
def test_a_vector_is_no_outer_value(at):
    with pytest.raises(ValueError, match=r"outer must return a real scalar, .* shape \(3,\)"):
        gradient(at, outer=lambda w: w * jnp.arange(3.0))


def test_a_decorated_step_is_refused():
    with pytest.raises(TypeError, match="step must be undecorated"):
        gradient(step=metagrad.compile(lambda w, counts, batch: w))


def test_a_step_without_the_fourth_argument_is_refused():
    with pytest.raises(TypeError, match=r"step must take .*, and takes \(w, counts, batch\)"):
        gradient(step=lambda w, counts, batch: w)
