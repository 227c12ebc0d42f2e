"""Padding, prefixes (`cumsum` and its kin) and products."""

import math

import jax.numpy as jnp
from jax import lax
from jax.extend.core import primitives

from metagrad.frontend.exact_lowerings.value_and_derivative import plain


def pad(x, empty, *, padding_config):
    """Negative padding removes elements first; Enzyme's rule would make a slice with negative
    bounds.

    Between two elements that are removed lie `inner` paddings; those left over become padding of
    the edge.
    """
    if not leaves_some(x, padding_config):
        return plain(primitives.pad_p, x, empty, padding_config=padding_config)
    start, stop, config = [], [], []
    for n, (low, high, inner) in zip(x.shape, padding_config):
        first, last = (max(-(edge // (inner + 1)), 0) for edge in (low, high))
        start.append(first)
        stop.append(n - last)
        config.append((low + first * (inner + 1), high + last * (inner + 1), inner))
    if any(start) or stop != list(x.shape):
        x = lax.slice(x, start, stop)
    return plain(primitives.pad_p, x, empty, padding_config=tuple(config))


def leaves_some(x, padding_config):
    """Whether negative padding leaves an element along each axis."""
    return all(
        max(-low, 0) + max(-high, 0) < n + (n - 1) * inner
        for n, (low, high, inner) in zip(x.shape, padding_config)
        if low < 0 or high < 0
    )


def prefix(combine):
    """`cumsum` and its kin, by the parallel prefix that JAX itself uses to differentiate them.

    Equal up to rounding.
    """

    def scan(x, *, axis, reverse):
        return lax.associative_scan(combine, x, axis=axis, reverse=reverse)

    return scan


def psum(x, *, axes, axis_index_groups):
    """What is left of a sum over a named axis once `vmap` has made it an axis of the array.

    One over a mesh of one device is JAX's.
    """
    if any(isinstance(axis, str) for axis in axes):
        return plain(primitives.psum_p, x, axes=axes, axis_index_groups=axis_index_groups)
    return lax.reduce_sum(x, axes)


def product(x, *, axes, **_):
    """A tree of multiplications, as in JAX's derivative: right also where factors are 0.

    Equal up to rounding.
    """
    x = jnp.moveaxis(x, tuple(axes), tuple(range(len(axes))))
    x = x.reshape(math.prod(x.shape[: len(axes)]), *x.shape[len(axes) :])
    if not x.shape[0]:
        return lax.full(x.shape[1:], 1, x.dtype)
    while x.shape[0] > 1:
        half = x.shape[0] // 2
        x = lax.concatenate([x[:half] * x[half : 2 * half], x[2 * half :]], 0)
    return x[0]
