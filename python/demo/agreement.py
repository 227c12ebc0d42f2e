"""Checks the metagradient in three ways that do not depend on each other.

1. JAX's own gradient of the unrolled run: reverse mode through a `lax.scan` of the same step built
   with `jax.grad`, in float32.
2. The same in float64. How far JAX's float32 is from it is the rounding error of the run itself:
   the yardstick for 1.
3. No derivatives at all: the slope of the loss along the metagradient, by a central difference of
   plain training runs in float64. It should be the metagradient's norm.
"""

import functools
from typing import Any, NamedTuple

import jax
import numpy as np

from metagrad.demo import training

# The step of the central difference, in units of the loss. In float64 both the truncation error h^2
# and the rounding error 1e-16/h of a run are small here.
DIFFERENCE = 1e-4


class Metagradients(NamedTuple):
    weight: Any  # [n]: of a weight per training example
    log_rate: Any  # [T]: of the logarithm of each step's learning rate
    initial: Any  # of the initial parameters: the tree of the parameters


def final_loss(params, meta, state, batches, validation):
    """Validation loss of the run that starts from `params`, unrolled."""

    def step(state, batch):
        return training.adam_step(jax.grad, state, meta, batch), None

    final, _ = jax.lax.scan(step, state._replace(params=params), batches)
    return training.validation_loss(final, *validation)


@jax.jit
def unrolled(state, meta, batches, validation):
    """JAX's gradient of the unrolled run. Returns (validation loss, Metagradients)."""
    value, (initial, meta) = jax.value_and_grad(final_loss, (0, 1))(
        state.params, meta, state, batches, validation
    )
    return value, Metagradients(meta["weight"], meta["log_rate"], initial)


def flat(tree):
    return np.concatenate([np.ravel(leaf).astype(np.float64) for leaf in jax.tree.leaves(tree)])


def norm(tree):
    return float(np.linalg.norm(flat(tree)))


def errors(metagradients, expected):
    """The relative error of each metagradient: a dict of three numbers.

    It is ||metagradient - expected|| / ||expected||.
    """
    return {
        name: float(np.linalg.norm(flat(ours) - flat(theirs)) / np.linalg.norm(flat(theirs)))
        for name, ours, theirs in zip(Metagradients._fields, metagradients, expected)
    }


def double(tree):
    """The tree on the host, with float leaves in float64."""

    def leaf(array):
        array = np.asarray(array)
        return array.astype(np.float64) if array.dtype == np.float32 else array

    return jax.tree.map(leaf, tree)


def in_float64(state, meta, batches, validation):
    """`unrolled`, computed in float64 from the same float32 inputs."""
    with jax.enable_x64(True):
        return jax.tree.map(np.asarray, unrolled(*double((state, meta, batches, validation))))


def slopes(metagradients, state, meta, batches, validation):
    """The measured slope of the final loss along each metagradient.

    Returns a dict of three numbers, to be compared with the norms of the metagradients.
    """
    metagradients, (state, meta, batches, validation) = double(
        (metagradients, (state, meta, batches, validation))
    )
    with jax.enable_x64(True):
        loss = jax.jit(final_loss)

        def loss_at(name, point):
            if name == "initial":
                return float(loss(point, meta, state, batches, validation))
            return float(loss(state.params, meta | {name: point}, state, batches, validation))

        points = {"initial": state.params} | meta
        return {
            name: slope(functools.partial(loss_at, name), points[name], gradient)
            for name, gradient in zip(Metagradients._fields, metagradients)
        }


def slope(loss_at, point, gradient):
    """The slope of `loss_at` at `point` in the direction of `gradient`, by a central difference."""
    # The run is as sensitive as the metagradient is long, so this step changes the loss by about
    # DIFFERENCE.
    length = norm(gradient)
    size = DIFFERENCE / length

    def loss_after(distance):
        moved = jax.tree.map(lambda leaf, along: leaf + distance / length * along, point, gradient)
        return loss_at(moved)

    return (loss_after(size) - loss_after(-size)) / (2 * size)
