"""Functions whose derivative overflows by Enzyme's rule where it does not by JAX's."""

from jaxlib.mlir.dialects import stablehlo


def the_exponent_is_below_minus_one(params, avals):
    """Whether an integer power is lowered as 1 / x^n, n > 1: the derivative of that squares x^n, where JAX has n x^(-n - 1)."""
    return params["y"] < -1


def logistic(ctx, x, **_):
    """One op, whose rule is y (1 - y); JAX writes it out, and the derivative of 1 / (1 + exp(-x)) overflows for x < -88."""
    return [stablehlo.logistic(x)]
