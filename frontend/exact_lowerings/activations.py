"""Custom rules of JAX's own library that are lowered by hand.

The result is smaller than JAX's rule beside the value.
"""

import numpy as np
from jax import lax
from jax.extend.core import primitives

from metagrad.frontend.exact_lowerings.value_and_derivative import attach, same_shape, value


def relu(x):
    return lax.select(x > 0, x, value(primitives.max_p, x, lax.full_like(x, 0)))


def relu6(x):
    zero, six = lax.full_like(x, 0), lax.full_like(x, 6)
    limited = value(primitives.min_p, value(primitives.max_p, x, zero), six)
    return lax.select((x > 0) & (x < 6), x, limited)


def logaddexp(x, y):
    """The larger plus log1p(exp(smaller - larger)): smooth also where x = y, unlike max and abs.

    At infinite operands the derivatives are those of JAX's rule: exp(x) where the sum is infinite,
    NaN where both are -inf.
    """
    x, y = same_shape(x, y)
    zero = lax.full_like(x, 0)
    defined = (x == x) & (y == y)
    infinite = defined & ((x == np.inf) | (y == np.inf))
    undefined = ~defined | ((x == -np.inf) & (y == -np.inf))
    usual = ~(infinite | undefined)

    def only(branch, z):
        return lax.select(branch, z, zero)

    first = x >= y
    larger, smaller = only(usual, lax.select(first, x, y)), only(usual, lax.select(first, y, x))
    summed = larger + lax.log1p(lax.exp(smaller - larger))
    grown = lax.exp(only(infinite & (x < np.inf), x)) + lax.exp(only(infinite & (y < np.inf), y))
    at_infinity = attach(only(x == np.inf, x) + only(y == np.inf, y), grown)
    indefinite = lax.log(lax.exp(only(undefined, x)) + lax.exp(only(undefined, y)))
    return lax.select(usual, summed, lax.select(infinite, at_infinity, indefinite))
