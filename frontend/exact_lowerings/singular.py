"""Functions with a singular point."""

import jax.numpy as jnp
from jax import lax
from jax.extend.core import primitives
from jaxlib.mlir.dialects import stablehlo

from .values import attach, held, plain, same_shape, value


def sqrt(x, **parameters):
    """Enzyme's rule has the derivative 0 at 0 where JAX's has infinity, as has the logarithm."""
    zero = x == 0
    one = lax.full_like(x, 1)
    at_zero = lax.log(lax.select(zero, x, one))
    return attach(plain(primitives.sqrt_p, x, **parameters), at_zero)


def power(x, y):
    """JAX's derivative in y is `log(x) x^y`, with 0 for the logarithm where x is 0; Enzyme has 0 * log(0) there."""
    x, y = same_shape(x, y)
    one = lax.full_like(x, 1)
    if jnp.issubdtype(y.dtype, jnp.integer):
        # Nothing flows through x^0, also not where x is 0.
        none = y == 0
        return lax.select(none, one, power(lax.select(none, one, x), y.astype(x.dtype)))
    zero = x == 0
    at_zero = plain(primitives.pow_p, lax.select(zero, x, one), held(y)) * attach(one, held(one - one) * y)
    return lax.select(zero, at_zero, plain(primitives.pow_p, lax.select(zero, one, x), y))


def integer_pow(x, *, y):
    """x^-n is lowered as 1 / x^n, whose derivative squares x^n: it overflows where JAX's n x^(-n - 1) does not."""
    if y >= -1:
        return plain(primitives.integer_pow_p, x, y=y)
    return attach(value(primitives.integer_pow_p, x, y=y), plain(primitives.integer_pow_p, lax.full_like(x, 1) / x, y=-y))


def logistic(ctx, x, **_):
    """One op, whose rule is y (1 - y); JAX writes it out, and the derivative of 1 / (1 + exp(-x)) overflows for x < -88."""
    return [stablehlo.logistic(x)]
