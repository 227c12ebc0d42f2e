"""Functions whose derivative overflows by Enzyme's rule where it does not by JAX's."""

import jax.numpy as jnp
from jaxlib.mlir.dialects import stablehlo

from metagrad.frontend.exact_lowerings.value_and_derivative import attach, moving, value
from metagrad.runtime import jax_internals


def the_exponent_is_below_minus_one(params, avals):
    """Whether an integer power is lowered as 1 / x^n, n > 1.

    The derivative of that squares x^n, where JAX has n x^(-n - 1).
    """
    return params["y"] < -1


def logistic(ctx, x, **_):
    """One op, whose rule is y (1 - y).

    JAX writes it out as 1 / (1 + exp(-x)), whose derivative overflows for x < -88.
    """
    return [stablehlo.logistic(x)]


def ldexp(x, exponent, **params):
    """x 2^exponent, from its bits.

    The derivative is multiplied by two powers, of which neither is infinite or zero.
    """
    (scaled,) = value(jax_internals.call_hi_primitive_p, x, exponent, **params)
    limits, half = jnp.finfo(x.dtype), exponent // 2
    powers = [
        jnp.ldexp(jnp.ones_like(x), jnp.clip(part, limits.minexp, limits.maxexp - 1))
        for part in (half, exponent - half)
    ]
    return [attach(scaled, moving(x) * powers[0] * powers[1])]
