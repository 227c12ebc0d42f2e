"""The training run: Adam on CLIP's loss of batches of pairs, for a fixed number of steps."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import metagrad
from examples.data_selection_contrastive import model

STEPS, BATCH, RATE = 200, 64, 3e-3

# eps_root is inside Adam's square root. Rows of words that a batch does not have get a gradient of
# exactly zero, where the square root without it has an infinite slope.
SCHEDULE = optax.warmup_cosine_decay_schedule(0.0, RATE, STEPS // 10, STEPS)
ADAM = optax.adam(SCHEDULE, eps_root=1e-8)


class State(NamedTuple):
    params: Any
    adam: Any


def start(key):
    params = model.initial(key)
    return State(params, ADAM.init(params))


def losses(params, pairs):
    """The training loss of each pair, with all the others as negatives: [n]."""
    return model.losses(params, pairs.image, pairs.caption)


def step(state, counts, batch, extra=metagrad.mgd.no_extra, grad=metagrad.grad):
    """One step of Adam. `extra` is what data selection adds to the loss."""
    del counts
    loss = lambda params: jnp.mean(losses(params, batch)) + extra(params)
    changes, adam = ADAM.update(grad(loss)(state.params), state.adam, state.params)
    return State(optax.apply_updates(state.params, changes), adam)


def train(keys, pool, orders):
    """Plain trainings, no metagradients: a list of the final parameters of each run.

    Args:
      keys: of the initial parameters, one for each run.
      pool: the pairs.
      orders: int32 [runs, STEPS, BATCH], places in the pool.
    """
    return [_train(key, pool, order) for key, order in zip(keys, orders)]


@jax.jit
def _train(key, pool, order):
    def advance(state, rows):
        batch = jax.tree.map(lambda leaf: leaf[rows], pool)
        return step(state, None, batch, grad=jax.grad), None

    return jax.lax.scan(advance, start(key), order)[0].params
