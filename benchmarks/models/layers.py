"""Layers that several models are made of.

A layer is a function of its input and its parameters, a dict of arrays.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

MOMENTUM = 0.9


def in_precision(product, narrow, a, b):
    """product(a, b), with operands and result rounded to the dtype `narrow` on the way.

    As mixed precision is usually written: what enters and leaves the product is as wide as before.
    None: nothing is rounded. XLA sums products of bfloat16 in float32 on a GPU.
    """
    if narrow is None:
        return product(a, b)
    return product(a.astype(narrow), b.astype(narrow)).astype(a.dtype)


def convolve(x, kernel, stride=1, narrow=None):
    """NHWC by HWIO, padded to the input's size over the stride."""
    convolution = lambda x, kernel: jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return in_precision(convolution, narrow, x, kernel)


def dense(x, weights, narrow=None):
    """x @ weights."""
    return in_precision(jnp.matmul, narrow, x, weights)


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


def attend(x, layer, heads, mask=None, narrow=None, attention=None):
    """Multi-head self-attention of x[batch, length, width]; `mask` says where a query may look.

    With `attention`, that function of (query, key, value), [batch, length, heads, size] each, takes
    the place of plain softmax attention, and of the mask.
    """
    batch, length, width = x.shape
    apart = lambda a: a.reshape(batch, length, heads, width // heads)
    contract = lambda text, a, b: in_precision(functools.partial(jnp.einsum, text), narrow, a, b)
    query, key, value = (apart(part) for part in jnp.split(dense(x, layer["qkv"], narrow), 3, -1))
    if attention is not None:
        mixed = attention(query, key, value)
        return dense(mixed.reshape(batch, length, width), layer["out"], narrow)
    scores = contract("bqhd,bkhd->bhqk", query, key) / np.sqrt(width // heads)
    if mask is not None:
        scores = jnp.where(mask, scores, -1e9)
    mixed = contract("bhqk,bkhd->bqhd", jax.nn.softmax(scores, -1), value)
    return dense(mixed.reshape(batch, length, width), layer["out"], narrow)


def transformer_block(x, layer, heads, mask=None, narrow=None, attention=None):
    """Attention and a gelu layer four times as wide, each normalised before, with a residual."""
    attended = layer_norm(x, layer["before_attention"])
    x = x + attend(attended, layer, heads, mask, narrow, attention)
    hidden = jax.nn.gelu(dense(layer_norm(x, layer["before_mlp"]), layer["up"], narrow))
    return x + dense(hidden, layer["down"], narrow)


def patches(images, size):
    """[batch, number of patches, size * size * colours]"""
    batch, height, width, colours = images.shape
    cut = images.reshape(batch, height // size, size, width // size, size, colours)
    return cut.transpose(0, 1, 3, 2, 4, 5).reshape(batch, -1, size * size * colours)
