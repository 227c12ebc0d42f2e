"""Functions of two operands, element by element, and constants of differentiation."""

import jax.numpy as jnp
import numpy as np
from jax import lax

from .case import EDGES, FINITE, LARGE, MILD, POSITIVE, case, elementwise, inf, normal

for name in ["add", "sub", "mul", "div", "max", "min", "atan2", "rem"]:
    elementwise(name, getattr(lax, name), MILD, MILD)
elementwise("pow", lax.pow, FINITE, [e for e in MILD if np.isfinite(e)])
elementwise("pow, constant exponent", lambda x: x**2.5, EDGES, proves="pow")
elementwise("pow, constant base", lambda x: lax.pow(lax.full_like(x, 0.9), x), EDGES, proves="pow")
elementwise("pow, base 0", lambda x: jnp.power(0.0, x), FINITE, proves="pow")
elementwise("pow, exponent 0", lambda x: jnp.power(x, jnp.zeros((), x.dtype)), FINITE, proves="pow")
elementwise(
    "logaddexp", jnp.logaddexp, *[[e for e in MILD if abs(e) != 100]] * 2, proves="activations"
)
elementwise("clamp", lax.clamp, *[[0.0, 1.0, -1.0, 0.5, 2.0, inf, -inf]] * 3)
case(
    "pow, integer exponent",
    lambda x, n: lax.pow(x, n),
    np.repeat([0.0, 1.0, -2.0, 0.9], 4),
    np.tile(np.int32([0, 1, 2, -3]), 4),
    proves="pow",
)
case(
    "bias correction",
    lambda x, n: x / (1 - 0.9 ** n.astype(x.dtype)),
    normal(3),
    np.int32(3),
    proves="pow div",
)
case(
    "scalar operand",
    lambda x, s: jnp.maximum(x, s) + s * x + jnp.minimum(s, x),
    normal(3),
    np.float64(0.3),
    proves="max min",
)

for name in ["lgamma", "digamma", "bessel_i0e", "bessel_i1e"]:
    elementwise(name, getattr(lax, name), POSITIVE if "gamma" in name else LARGE, rounded=True)
elementwise("polygamma", lambda x: lax.polygamma(lax.full_like(x, 1), x), POSITIVE, rounded=True)
elementwise("igamma", lambda x: lax.igamma(lax.full_like(x, 1.5), x), POSITIVE, rounded=True)
case(
    "igamma in a",
    lambda a, x: lax.igamma(a, x),
    np.array([0.5, 1.5, 3.0]),
    np.array([0.5, 1.5, 7.0]),
    orders=1,
    proves="igamma igamma_grad_a",
    rounded=True,
)
elementwise("igammac", lambda x: lax.igammac(lax.full_like(x, 1.5), x), POSITIVE, rounded=True)
elementwise(
    "betainc",
    lambda x: lax.betainc(lax.full_like(x, 1.5), lax.full_like(x, 2.0), x),
    [0.1, 0.5, 0.9],
    proves="regularized_incomplete_beta",
    rounded=True,
)

POINTS = np.array([0.0, 1.0, 2.0, 0.25])
case("stop_gradient", lambda x: lax.stop_gradient(x) * x * x, normal(4))
case(
    "stop_gradient at a singular point",
    lambda x: lax.stop_gradient(jnp.sqrt(x)) + jnp.exp(x),
    POINTS,
    proves="stop_gradient",
)
case(
    "stop_gradient of log",
    lambda x: lax.stop_gradient(jnp.log(x + 1)) * x,
    POINTS,
    proves="stop_gradient",
)
case("unused", lambda x: (jnp.log(x), jnp.exp(x))[1], POINTS, proves="stop_gradient")
case("compared only", lambda x: jnp.where(jnp.log(x) > 0, x, 2 * x), POINTS, proves="select_n")
case(
    "straight through",
    lambda x: x + lax.stop_gradient(jnp.round(x) - x),
    normal(4),
    proves="stop_gradient round",
)
