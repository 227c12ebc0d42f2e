"""Layers that several models are made of.

A layer is a function of its input and its parameters, a dict of arrays.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

MOMENTUM = 0.9


def convolve(x, kernel, stride=1):
    """NHWC by HWIO, padded to the input's size over the stride."""
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def normalise(x, mean, variance, layer):
    return (x - mean) * jax.lax.rsqrt(variance + 1e-5) * layer["scale"] + layer["shift"]


def layer_norm(x, layer):
    mean = jnp.mean(x, -1, keepdims=True)
    variance = jnp.mean((x - mean) ** 2, -1, keepdims=True)
    return normalise(x, mean, variance, layer)


def batch_norm(x, layer, running, training):
    """x[batch, height, width, channels], and the running statistics after this batch.

    If not `training`, the statistics are unchanged.
    """
    if not training:
        return normalise(x, running["mean"], running["variance"], layer), running
    mean = jnp.mean(x, (0, 1, 2))
    variance = jnp.mean((x - mean) ** 2, (0, 1, 2))
    after = {"mean": mean, "variance": variance}
    running = jax.tree.map(lambda old, new: MOMENTUM * old + (1 - MOMENTUM) * new, running, after)
    return normalise(x, mean, variance, layer), running


def group_norm(x, layer, groups):
    """x[batch, height, width, channels], normalised within each example and group of channels."""
    batch, height, width, channels = x.shape
    grouped = x.reshape(batch, height, width, groups, channels // groups)
    mean = jnp.mean(grouped, (1, 2, 4), keepdims=True)
    variance = jnp.mean((grouped - mean) ** 2, (1, 2, 4), keepdims=True)
    normalised = (grouped - mean) * jax.lax.rsqrt(variance + 1e-5)
    return normalised.reshape(x.shape) * layer["scale"] + layer["shift"]


def max_pool(x):
    """Halves height and width of x[batch, height, width, channels]."""
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


def attend(x, layer, heads, mask=None):
    """Multi-head self-attention of x[batch, length, width]; `mask` says where a query may look."""
    batch, length, width = x.shape
    apart = lambda a: a.reshape(batch, length, heads, width // heads)
    query, key, value = (apart(part) for part in jnp.split(x @ layer["qkv"], 3, -1))
    scores = jnp.einsum("bqhd,bkhd->bhqk", query, key) / np.sqrt(width // heads)
    if mask is not None:
        scores = jnp.where(mask, scores, -1e9)
    mixed = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores, -1), value)
    return mixed.reshape(batch, length, width) @ layer["out"]


def transformer_block(x, layer, heads, mask=None):
    """Attention and a gelu layer four times as wide, each normalised before, with a residual."""
    x = x + attend(layer_norm(x, layer["before_attention"]), layer, heads, mask)
    return x + jax.nn.gelu(layer_norm(x, layer["before_mlp"]) @ layer["up"]) @ layer["down"]


def patches(images, size):
    """[batch, number of patches, size * size * colours]"""
    batch, height, width, colours = images.shape
    cut = images.reshape(batch, height // size, size, width // size, size, colours)
    return cut.transpose(0, 1, 3, 2, 4, 5).reshape(batch, -1, size * size * colours)
