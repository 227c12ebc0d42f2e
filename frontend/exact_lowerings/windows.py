"""Padding, prefixes and windows."""

import math

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import primitives

from .values import plain


def pad(x, empty, *, padding_config):
    """Negative padding takes elements away first: Enzyme's rule for it makes a slice with negative bounds.

    Between two elements that are taken away lie `inner` paddings; those that are left over become padding of the edge.
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
    return all(max(-low, 0) + max(-high, 0) < n + (n - 1) * inner for n, (low, high, inner) in zip(x.shape, padding_config) if low < 0 or high < 0)


def prefix(combine):
    """`cumsum` and its kin, by the parallel prefix that JAX itself uses to differentiate them; equal up to rounding."""

    def scan(x, *, axis, reverse):
        return lax.associative_scan(combine, x, axis=axis, reverse=reverse)

    return scan


def product(x, *, axes, **_):
    """A tree of multiplications, as in JAX's derivative: right also where factors are 0. Equal up to rounding."""
    x = jnp.moveaxis(x, tuple(axes), tuple(range(len(axes))))
    x = x.reshape(math.prod(x.shape[: len(axes)]), *x.shape[len(axes) :])
    if not x.shape[0]:
        return lax.full(x.shape[1:], 1, x.dtype)
    while x.shape[0] > 1:
        half = x.shape[0] // 2
        x = lax.concatenate([x[:half] * x[half : 2 * half], x[2 * half :]], 0)
    return x[0]


LARGEST_WINDOW = 64  # a window becomes one strided slice for each of its elements


def window_volume(parameters):
    return math.prod(parameters["window_dimensions"])


def window_elements(x, empty, *, window_dimensions, window_strides, padding, base_dilation, window_dilation):
    """One strided slice of the padded operand for each element of the window, in row-major order."""
    padded = lax.pad(x, lax.full((), empty, x.dtype), [(lo, hi, d - 1) for (lo, hi), d in zip(padding, base_dilation)])
    for offset in np.ndindex(*window_dimensions):
        start = [o * d for o, d in zip(offset, window_dilation)]
        last = [(w - 1) * d for w, d in zip(window_dimensions, window_dilation)]
        stop = [n - (e - s) for n, e, s in zip(padded.shape, last, start)]
        yield lax.slice(padded, start, stop, window_strides)


def window_sum(x, **parameters):
    total = None
    for element in window_elements(x, 0, **parameters):
        total = element if total is None else total + element
    return total


def window_extreme(comes_first, empty):
    """Max and min pooling: the first of equal elements gets the derivative, as in JAX's select-and-scatter."""

    def pooling(x, **parameters):
        best = None
        for element in window_elements(x, empty, **parameters):
            stays = None if best is None else comes_first(best, element) | (best != best)
            best = element if best is None else lax.select(stays, best, element)
        return best

    return pooling
