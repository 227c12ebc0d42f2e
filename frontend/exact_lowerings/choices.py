"""Choices: select, max, min, clamp, reductions."""

from jax import lax
from jax.extend.core import primitives

from metagrad.frontend.exact_lowerings.value_and_derivative import (
    attach,
    plain,
    same_shape,
    stopped,
    stopped_once,
    value,
)


def select_n(which, *cases):
    return plain(primitives.select_n_p, stopped(which), *cases)


def select_integers(which, *cases):
    """In a loop that carries floats too, Enzyme's reverse mode asks for a predicate's derivative.

    Only there: the mark need not outlive the first order, where it would hide an index.
    """
    return plain(primitives.select_n_p, stopped_once(which), *cases)


def larger_or_smaller(primitive):
    """`max` and `min`: at a tie each operand gets half."""

    def chooser(x, y):
        x, y = same_shape(x, y)
        chosen = value(primitive, x, y)
        from_x, from_y = stopped(x) == chosen, stopped(y) == chosen
        none, one, two = (lax.full_like(x, n) for n in (0, 1, 2))
        share_x = lax.select(from_x, one, none) / lax.select(from_y, two, one)
        share_y = lax.select(from_y, one, none) / lax.select(from_x, two, one)
        return attach(attach(chosen, share_x * x), share_y * y)

    return chooser


def clamp(low, x, high):
    low, x, high = same_shape(low, x, high)
    limited = value(primitives.clamp_p, low, x, high)
    inside = (low < x) & (x < high)
    below = (x < low) & (low < high)
    above = (high < x) & (limited == high)
    return lax.select(inside, x, lax.select(below, low, lax.select(above, high, limited)))


def extreme(primitive):
    """`reduce_max` and `reduce_min`: those who tie share the derivative equally."""

    def reduction(x, *, axes, **parameters):
        extremum = value(primitive, x, axes=axes, **parameters)
        if not x.size:
            return extremum
        kept = [i for i in range(x.ndim) if i not in axes]
        tied = lax.eq(stopped(x), lax.broadcast_in_dim(extremum, x.shape, kept))
        shares = lax.convert_element_type(tied, x.dtype)
        return attach(extremum, total(x * shares, axes) / total(shares, axes))

    return reduction


def total(x, axes):
    return lax.reduce_sum(x, tuple(axes))
