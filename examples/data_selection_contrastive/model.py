"""Two towers that meet in a space of 32 dimensions, and the contrastive loss between them.

The image tower is a network of two hidden layers on the 64 pixels. The caption tower averages the
embeddings of the words and has one hidden layer. Activations are GELU behind a layer norm, and
pooling is an average: the final loss is then a smoother function of the training data, which
metagradients need (Engstrom et al. 2025, "metasmoothness").
"""

import jax
import jax.numpy as jnp

from examples.data_selection_contrastive.data import CODES

WIDTH, SPACE = 64, 32
SCALE = 10.0
"""The inverse temperature of the similarities, which lie in [-1, 1]."""


def initial(key):
    """Parameters with kernels of variance 1/fan-in and zero biases, float32."""
    keys = iter(jax.random.split(key, 8))

    def dense(inputs, outputs):
        kernel = jax.random.normal(next(keys), (inputs, outputs), jnp.float32) / inputs**0.5
        return {"kernel": kernel, "bias": jnp.zeros(outputs, jnp.float32)}

    return {
        "image": {
            "hidden": dense(64, WIDTH),
            "deep": dense(WIDTH, WIDTH),
            "out": dense(WIDTH, SPACE),
        },
        "caption": {
            "words": jax.random.normal(next(keys), (len(CODES), WIDTH), jnp.float32),
            "hidden": dense(WIDTH, WIDTH),
            "out": dense(WIDTH, SPACE),
        },
    }


def layer(params, x):
    return x @ params["kernel"] + params["bias"]


def smooth(x):
    """Layer norm without parameters, then GELU."""
    return jax.nn.gelu(jax.nn.standardize(x, axis=-1))


def unit(x):
    """Rows of length one. The square root is never of zero."""
    return x / jnp.sqrt(jnp.sum(x**2, -1, keepdims=True) + 1e-6)


def embed_images(params, images):
    """[n, 64] -> [n, SPACE], of length one."""
    x = smooth(layer(params["hidden"], images))
    x = smooth(layer(params["deep"], x))
    return unit(layer(params["out"], x))


def embed_captions(params, captions):
    """int [n, LENGTH] -> [n, SPACE], of length one."""
    written = (captions > 0)[..., None].astype(jnp.float32)
    words = jnp.sum(params["words"][captions] * written, 1) / jnp.sum(written, 1)
    return unit(layer(params["out"], smooth(layer(params["hidden"], words))))


def similarities(params, images, captions):
    """[n, m]: SCALE times the cosine of each image with each caption."""
    return (
        SCALE
        * embed_images(params["image"], images)
        @ embed_captions(params["caption"], captions).T
    )


def losses(params, images, captions):
    """CLIP's loss of each pair, with the others of the batch as negatives: [n], in nats.

    The mean of two cross-entropies: of the image's own caption among the captions, and of the
    caption's own image among the images (Radford et al. 2021).
    """
    table = similarities(params, images, captions)
    own = jnp.diagonal(table)
    return (jax.nn.logsumexp(table, 1) + jax.nn.logsumexp(table, 0)) / 2 - own
