"""A loss under gradient descent against JAX, and what losses are made of."""

import jax
import jax.numpy as jnp
import runs
from unrolled import assert_exact

import metagrad
from metagrad import LazyKary

EVERYTHING = ("meta", "state", "batches")


def check(loss, *, params=None, T=4, wrt=EVERYTHING, batches=None, outer=runs.outer):
    """A loss under gradient descent against JAX."""
    return check_gradient(
        metagrad.grad(loss), params=params, T=T, wrt=wrt, batches=batches, outer=outer
    )


def check_gradient(gradient, *, params=None, T=4, wrt=EVERYTHING, batches=None, outer=runs.outer):
    """Descent along `gradient(params, meta, batch)` against JAX."""
    state = {"params": runs.params() if params is None else params}
    batches = runs.data(T) if batches is None else batches
    return assert_exact(
        runs.sgd(gradient), outer, wrt, state, runs.meta(), batches, schedule=LazyKary(2)
    )[1]


def mean_loss(predict):
    return lambda p, z, batch: jnp.mean(
        z["weights"] * (predict(p, batch["x"], z) - batch["y"]) ** 2
    )


@jax.custom_jvp
def surrogate(x):
    return jnp.where(x > 0, x, 0.0)


@surrogate.defjvp
def _surrogate_rule(primals, tangents):
    """Not the derivative of a step's primal."""
    return surrogate(*primals), tangents[0] / (1 + primals[0] ** 2)
