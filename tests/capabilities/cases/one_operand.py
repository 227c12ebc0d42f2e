"""Functions of one operand, element by element."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .case import EDGES, FINITE, LARGE, MILD, POSITIVE, case, elementwise

for name in [
    "neg",
    "sin",
    "cos",
    "tanh",
    "logistic",
    "exp",
    "exp2",
    "log",
    "log1p",
    "expm1",
    "sqrt",
    "rsqrt",
    "cbrt",
    "abs",
    "erf",
    "erfc",
    "erf_inv",
    "asin",
    "acos",
    "atan",
    "sinh",
    "cosh",
    "asinh",
    "square",
]:
    # XLA sums a series for erfc, and where the last elements of a vector are computed apart the sum
    # differs in its last bit.
    elementwise(name, getattr(lax, name), EDGES, rounded=name == "erfc")
elementwise("tan", lax.tan, EDGES)
elementwise("acosh", lax.acosh, EDGES)
elementwise("atanh", lax.atanh, EDGES)
elementwise("sign", lambda x: lax.sign(x) * x, EDGES)
elementwise("floor", lambda x: lax.floor(x) + x, EDGES)
elementwise("ceil", lambda x: lax.ceil(x) + x, EDGES)
elementwise("round", lambda x: lax.round(x, lax.RoundingMethod.TO_NEAREST_EVEN) + x, EDGES)
elementwise(
    "round away",
    lambda x: lax.round(x, lax.RoundingMethod.AWAY_FROM_ZERO) + x,
    EDGES,
    proves="round",
)
for n in (0, 1, 2, 3, 4, 5, 7):
    elementwise(
        f"integer_pow {n}", lambda x, n=n: lax.integer_pow(x, n), EDGES, proves="integer_pow"
    )
for n in (-1, -2, -3):
    # At 1e-12 JAX's own second derivative overflows in float32.
    elementwise(
        f"integer_pow {n}",
        lambda x, n=n: lax.integer_pow(x, n),
        [e for e in EDGES if e != 1e-12],
        proves="integer_pow",
    )
elementwise("is_finite", lambda x: jnp.where(lax.is_finite(x), x, 3 * x), EDGES, proves="select_n")
elementwise("where 0", lambda x: jnp.where(x > 0, x, 0.0), EDGES, proves="select_n")
elementwise("where 1", lambda x: jnp.where(x >= 1, 1.0, x), EDGES, proves="select_n")
elementwise("where log", lambda x: jnp.where(x > 0, jnp.log(x), 0.0), EDGES, proves="select_n")
elementwise("where nan", lambda x: jnp.where(x != x, 0.0, x), EDGES, proves="select_n")
elementwise(
    "select_n 3",
    lambda x: lax.select_n((x > 0).astype(np.int32) + (x > 1), x, x * x, 3 * x),
    EDGES,
    proves="select_n",
)
elementwise("nan_to_num", jnp.nan_to_num, EDGES, proves="select_n")
elementwise("max 0", lambda x: jnp.maximum(x, 0.0), EDGES, proves="max")
elementwise("min 1", lambda x: jnp.minimum(x, 1.0), EDGES, proves="min")
elementwise("clip", lambda x: jnp.clip(x, 0.0, 1.0), EDGES, proves="max min")
elementwise(
    "clamp to constants",
    lambda x: lax.clamp(x.dtype.type(0), x, x.dtype.type(1)),
    EDGES,
    proves="clamp",
)
elementwise(
    "convert to bf16",
    lambda x: x.astype(jnp.bfloat16).astype(x.dtype) * x,
    FINITE,
    proves="convert_element_type",
)
elementwise(
    "convert to f32",
    lambda x: x.astype(jnp.float32).astype(x.dtype) * x,
    FINITE,
    proves="convert_element_type",
    loosen=1e7,
)
elementwise(
    "convert to int",
    lambda x: x.astype(jnp.int32).astype(x.dtype) * x,
    [0.0, 1.5, -2.5, 7.0],
    proves="convert_element_type",
)
elementwise(
    "float to bool", lambda x: (x > 0).astype(x.dtype) * x, EDGES, proves="convert_element_type"
)
elementwise("copy", lambda x: jnp.array(x, copy=True) * x, EDGES)

for name in [
    "relu",
    "relu6",
    "silu",
    "gelu",
    "elu",
    "mish",
    "hard_swish",
    "hard_tanh",
    "leaky_relu",
    "celu",
    "selu",
    "squareplus",
    "soft_sign",
    "log_sigmoid",
    "softplus",
    "sigmoid",
]:
    elementwise(name, getattr(jax.nn, name), EDGES + [6.0, 3.0], proves="activations", rounded=True)
for name in ["log1mexp"]:
    elementwise(
        name, getattr(jax.nn, name), [0.5, 1.0, 2.5, 40.0, 0.0], proves="activations", rounded=True
    )
elementwise(
    "logaddexp2",
    jnp.logaddexp2,
    *[[e for e in MILD if abs(e) != 100]] * 2,
    proves="activations",
    rounded=True,
)
FROM_0_12 = jax.__version_info__ >= (0, 12)
SPECIAL = {
    "sinc": LARGE + [0.0],
    "i0e": LARGE,
    # From 0.12 on JAX has a series near 0.
    "i1": LARGE + [0.0, -0.0, 1e-5, 1e-12] * FROM_0_12,
    "i1e": LARGE,
    "entr": EDGES,
    "logit": [0.0, 0.1, 0.5, 0.9, 1.0, -1.0, 2.0],
    "expit": EDGES,
    "ndtr": EDGES,
    "log_ndtr": FINITE,
    "ndtri": [0.1, 0.3, 0.5, 0.99],
    "gammaln": POSITIVE,
    "erfcx": [0.0, 0.5, -0.5, 2.5, 40.0],
    "dawsn": [0.0, 0.5, -0.5, 2.5],
    "expi": [0.5, 1.0, -0.5, -3.0, 2.5],
    "gamma": [0.5, 1.0, 2.5, 3.0],
    "factorial": [0.5, 1.0, 2.5],
    "spence": [0.5, 1.5, 2.5, 1.0],
}
# JAX's own second derivative of erfcx fails on arrays from 0.12 on: "select cases must have the
# same shapes".
ONE_ORDER = {"erfcx"} if FROM_0_12 else set()
for name, points in SPECIAL.items():
    elementwise(
        f"special {name}",
        getattr(jnp if name == "sinc" else jax.scipy.special, name),
        points,
        proves="special",
        orders=1 if name in ONE_ORDER else 2,
        rounded=True,
    )
elementwise(
    "special ldexp",
    lambda x: jnp.ldexp(x, 3) * jnp.ldexp(x, -2),
    EDGES,
    proves="special",
    rounded=True,
)
elementwise(
    "special searchsorted",
    lambda x: x * jnp.arange(6.0)[jnp.searchsorted(jnp.arange(5.0) - 2, x)],
    MILD,
    proves="special",
)
if FROM_0_12:
    elementwise("one_minus_square", jax.lax.one_minus_square, EDGES)
    elementwise("polynomial", lambda x: jax.lax.polynomial(x, [1.5, -2.0, 0.0, 3.0]), EDGES)
    elementwise(
        "polynomial long",
        lambda x: jax.lax.polynomial(x, list(np.linspace(-0.7, 0.9, 12))),
        MILD,
        proves="polynomial",
    )
for name in ["xlogy", "xlog1py", "rel_entr", "kl_div"]:
    elementwise(
        f"special {name}",
        getattr(jax.scipy.special, name),
        *[[0.0, 1.0, 0.5, 2.5, 1e-5, 40.0]] * 2,
        proves="special",
        rounded=True,
    )
elementwise(
    "special sici",
    lambda x: sum(jax.scipy.special.sici(x)),
    [0.5, 1.0, 2.5, 40.0],
    proves="special",
    rounded=True,
)
elementwise(
    "special poch",
    lambda x: jax.scipy.special.poch(x, 2.5),
    [0.5, 1.0, 2.5],
    proves="special",
    rounded=True,
)
elementwise(
    "special owens_t",
    jax.scipy.special.owens_t,
    *[[0.5, 1.0, 2.5]] * 2,
    proves="special",
    rounded=True,
)
elementwise(
    "special fresnel",
    lambda x: sum(jax.scipy.special.fresnel(x)),
    [0.5, 1.0, 2.5],
    proves="special",
    rounded=True,
)
elementwise(
    "special frexp",
    lambda x: jnp.frexp(x)[0] * x,
    [0.5, 1.0, 2.5, -3.0],
    proves="special",
    rounded=True,
)
elementwise(
    "special zeta",
    lambda q: jax.scipy.special.zeta(2.5, q),
    [0.5, 1.0, 2.5],
    proves="special",
    rounded=True,
)
elementwise(
    "special gammainc",
    lambda x: jax.scipy.special.gammainc(1.5, x),
    [0.5, 1.0, 2.5, 40.0],
    proves="special",
    rounded=True,
)
elementwise(
    "special betaln",
    jax.scipy.special.betaln,
    *[[0.5, 1.0, 2.5, 40.0]] * 2,
    proves="special",
    rounded=True,
)
# A model of one example, mapped over the batch, along any axis.
for axis in (0, 1):
    case(
        f"relu under vmap {axis}",
        jax.vmap(jax.nn.relu, axis),
        np.array([[0.0, 1.0], [-1.0, 0.0]]),
        proves="activations",
    )
    case(
        f"logaddexp under vmap {axis}",
        jax.vmap(jnp.logaddexp, (axis, 0)),
        np.array([[0.0, 1.0], [-1.0, 0.0]]),
        np.array([[0.0, 2.0], [1.0, 0.0]]),
        proves="activations",
        rounded=True,
    )
    case(
        f"xlogy under vmap {axis}",
        jax.vmap(jax.scipy.special.xlogy, (axis, None)),
        np.array([[0.0, 1.0], [-1.0, 0.0]]),
        np.array([0.5, 2.0]),
        proves="activations",
        rounded=True,
    )
elementwise(
    "gelu exact",
    lambda x: jax.nn.gelu(x, approximate=False),
    EDGES,
    proves="activations",
    rounded=True,
)
elementwise("log abs", lambda x: jnp.log(jnp.abs(x) + 1e-6), EDGES, proves="abs log")
