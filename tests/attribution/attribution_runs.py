"""Small runs that the tests of attribution share."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metagrad import attribution


class SmallRun(NamedTuple):
    training: attribution.WeightedTraining
    arguments: tuple  # (state0, meta, batches)
    examples: dict
    queries: dict
    params: dict  # to start from


def losses(params, examples):
    """[n]: cross entropy of a network with 5 tanh units."""
    return optax.softmax_cross_entropy_with_integer_labels(logits(params, examples), examples["y"])


def logits(params, examples, probe=lambda name, x, y: y):
    layer = params["hidden"]
    x = examples["x"]
    x = jnp.tanh(probe("hidden", x, x @ layer["kernel"] + layer["bias"]))
    return probe(("last", 0), x, x @ params["last"][0])


def criterion(outputs, examples):
    return optax.softmax_cross_entropy_with_integer_labels(outputs, examples["y"])


def small_run(steps=6, n=16, optimizer=None, seed=0):
    random = np.random.default_rng(seed)
    draw = lambda *shape: jnp.asarray(random.normal(size=shape))
    params = {"hidden": {"kernel": draw(4, 5), "bias": draw(5)}, "last": [draw(5, 3)]}
    data = lambda n: {"x": draw(n, 4), "y": jnp.asarray(random.integers(0, 3, n))}
    examples, queries = data(n), data(3)
    training = attribution.WeightedTraining(losses, optimizer or optax.adam(0.02, eps_root=1e-6))
    order = random.integers(0, n, (steps, 6))
    return SmallRun(
        training, training.arguments(params, examples, order), examples, queries, params
    )


def retrained_by_hand(run, weight):
    """The losses of the queries, by a Python loop over plain steps."""
    state, _, batches = run.arguments
    for t in range(len(batches["index"])):
        batch = jax.tree.map(lambda x: x[t], batches)  # noqa: B023
        state = run.training.step(state, {"weight": weight}, batch)
    return losses(state.params, run.queries)
