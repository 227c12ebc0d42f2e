"""Retrieval between images and captions: how good it is, and a smooth loss that stands for it."""

import jax
import jax.numpy as jnp

from examples.data_selection_contrastive import model


def recalls(params, pairs):
    """Recall@1 of images to captions, and of captions to images: (scalar, scalar).

    Each image is shown all captions of the set, and the most similar one has to say what its own
    says, in whatever words; and the other way round.
    """
    table = model.similarities(params, pairs.image, pairs.caption)
    hit = lambda table: jnp.mean(pairs.meaning[jnp.argmax(table, 1)] == pairs.meaning)
    return hit(table), hit(table.T)


def loss(params, pairs):
    """The contrastive loss over a set, in nats, where all captions of one meaning are right."""
    table = model.similarities(params, pairs.image, pairs.caption)
    same = pairs.meaning[:, None] == pairs.meaning
    right = jnp.where(same, table, -jnp.inf)
    both = [jax.nn.logsumexp(table, axis) - jax.nn.logsumexp(right, axis) for axis in (0, 1)]
    return jnp.mean(jnp.stack(both))
