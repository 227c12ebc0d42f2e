"""Scores of the training examples, [n] each: the higher, the likelier is a wrong label.

The first two look at the training part alone. The others use the validation part too, as the
metagradient does: they know labels that are right.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from metagrad.demo import model

FOLDS, NEIGHBOURS = 5, 10


@jax.jit
def training_loss(task, keys):
    """The loss of an example on its own label after training on all. One run for each key."""
    ones = jnp.ones(len(task.train[1]))
    one = lambda key: model.losses(task.params(ones, key), *task.train)
    return jnp.mean(jax.lax.map(one, keys), axis=0)


@jax.jit
def held_out_loss(task, keys):
    """The loss under a run that did not see the example: FOLDS runs for each key.

    It is the out-of-sample score of confident learning (Northcutt et al. 2021, arXiv 1911.00068).
    """
    count = len(task.train[1])
    fold = np.random.default_rng(0).permutation(count) % FOLDS

    def one(at):
        key, number = at
        seen = jnp.asarray(fold) != number
        losses = model.losses(task.params(seen.astype(jnp.float32), key), *task.train)
        return jnp.where(seen, 0, losses)

    pairs = jnp.repeat(keys, FOLDS), jnp.tile(jnp.arange(FOLDS), len(keys))
    return jnp.sum(jax.lax.map(one, pairs), axis=0) / len(keys)


@jax.jit
def loss_of_clean(task, keys):
    """The loss under a network that is trained on the validation part only. A run for each key."""
    clean = task._replace(train=task.validation)
    ones = jnp.ones(len(clean.train[1]))
    one = lambda key: model.losses(clean.params(ones, key), *task.train)
    return jnp.mean(jax.lax.map(one, keys), axis=0)


@jax.jit
def neighbours(task, keys):
    """The share of the nearest examples of the validation part with another label. No run."""
    del keys
    distance = jnp.sum((task.train[0][:, None] - task.validation[0]) ** 2, axis=-1)
    nearest = jax.lax.top_k(-distance, NEIGHBOURS)[1]
    return jnp.mean(task.validation[1][nearest] != task.train[1][:, None], axis=1)


@jax.jit
def gradient_similarity(task, keys):
    """How far a gradient step on the example raises the validation loss, after training.

    It is TracIn of the last state (Pruthi et al. 2020, arXiv 2002.08484), with the sign of harm.
    """
    ones = jnp.ones(len(task.train[1]))

    def one(key):
        params = task.params(ones, key)
        loss = lambda params: jnp.mean(model.losses(params, *task.validation))
        along = functools.partial(jax.jvp, lambda params: model.losses(params, *task.train))
        return -along((params,), (jax.grad(loss)(params),))[1]

    return jnp.mean(jax.lax.map(one, keys), axis=0)


ALL = {
    "loss in training": (training_loss, 1),
    "loss, held out": (held_out_loss, FOLDS),
    "gradient similarity": (gradient_similarity, 1),
    "loss of a clean network": (loss_of_clean, 1),
    "clean neighbours": (neighbours, 0),
}
"""The score's function, and its price for each key in plain training runs."""
