"""What is compared: a function, its inputs with the values where rules part, and the primitives that it proves.

Elementwise functions run over a grid: each operand over `EDGES`, each combination with each cotangent of `COTANGENTS`.
Float inputs are written in float64 and cast to the dtype under test.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

inf, nan = np.inf, np.nan

EDGES = [0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 2.5, -3.0, 1e-5, 40.0, -100.0, 100.0, -1000.0, 1000.0, 1e-12, 1e12, inf, -inf, nan]
MILD = [e for e in EDGES if abs(e) <= 100 or not np.isfinite(e)]
FINITE = [e for e in EDGES if np.isfinite(e)]
LARGE = [e for e in FINITE if abs(e) > 1e-4]  # where JAX subtracts numbers that are nearly equal
POSITIVE = [e for e in FINITE if e > 0]
COTANGENTS = [1.3, -0.7, 0.0, inf, nan]
NUMBERS = np.random.default_rng(0)


@dataclasses.dataclass(frozen=True)
class Case:
    """One comparison.

    Attributes:
        proves: names of the primitives that this is evidence for.
        orders: 2 for both modes, 1 for reverse mode alone.
        cotangents: the cotangent of every output, or None for random numbers.
        elementwise: each output element depends on the same element of each input, and no other.
        loosen: factor on the tolerance, for functions whose rounding JAX amplifies.
        rounded: the value may differ from JAX's by rounding (sums taken in another order).
    """

    name: str
    fn: Callable
    inputs: tuple
    proves: tuple[str, ...]
    orders: int = 2
    cotangents: object = None
    elementwise: bool = False
    loosen: float = 1.0
    rounded: bool = False


CASES: dict[str, Case] = {}


def case(name, fn, *inputs, proves=None, **options):
    assert name not in CASES, name
    CASES[name] = Case(name, fn, inputs, tuple((proves or name).split()), **options)


def elementwise(name, fn, *edges, **options):
    grid = np.meshgrid(*edges, COTANGENTS, indexing="ij")
    case(name, fn, *grid[:-1], cotangents=grid[-1], elementwise=True, **options)


def normal(*shape):
    return NUMBERS.normal(size=shape)


# --- One operand, elementwise ------------------------------------------------------------------------------------

for name in (
    "neg sin cos tanh logistic exp exp2 log log1p expm1 sqrt rsqrt cbrt abs erf erfc erf_inv asin acos atan sinh cosh asinh square"
).split():
    elementwise(name, getattr(lax, name), EDGES)
elementwise("tan", lax.tan, EDGES)
elementwise("acosh", lax.acosh, EDGES)
elementwise("atanh", lax.atanh, EDGES)
elementwise("sign", lambda x: lax.sign(x) * x, EDGES)
elementwise("floor", lambda x: lax.floor(x) + x, EDGES)
elementwise("ceil", lambda x: lax.ceil(x) + x, EDGES)
elementwise("round", lambda x: lax.round(x, lax.RoundingMethod.TO_NEAREST_EVEN) + x, EDGES)
elementwise("round away", lambda x: lax.round(x, lax.RoundingMethod.AWAY_FROM_ZERO) + x, EDGES, proves="round")
for n in (0, 1, 2, 3, 4, 5, 7):
    elementwise(f"integer_pow {n}", lambda x, n=n: lax.integer_pow(x, n), EDGES, proves="integer_pow")
for n in (-1, -2, -3):
    # At 1e-12 JAX's own second derivative overflows in float32.
    elementwise(f"integer_pow {n}", lambda x, n=n: lax.integer_pow(x, n), [e for e in EDGES if e != 1e-12], proves="integer_pow")
elementwise("is_finite", lambda x: jnp.where(lax.is_finite(x), x, 3 * x), EDGES, proves="select_n")
elementwise("where 0", lambda x: jnp.where(x > 0, x, 0.0), EDGES, proves="select_n")
elementwise("where 1", lambda x: jnp.where(x >= 1, 1.0, x), EDGES, proves="select_n")
elementwise("where log", lambda x: jnp.where(x > 0, jnp.log(x), 0.0), EDGES, proves="select_n")
elementwise("where nan", lambda x: jnp.where(x != x, 0.0, x), EDGES, proves="select_n")
elementwise("select_n 3", lambda x: lax.select_n((x > 0).astype(np.int32) + (x > 1), x, x * x, 3 * x), EDGES, proves="select_n")
elementwise("nan_to_num", jnp.nan_to_num, EDGES, proves="select_n")
elementwise("max 0", lambda x: jnp.maximum(x, 0.0), EDGES, proves="max")
elementwise("min 1", lambda x: jnp.minimum(x, 1.0), EDGES, proves="min")
elementwise("clip", lambda x: jnp.clip(x, 0.0, 1.0), EDGES, proves="max min")
elementwise("clamp to constants", lambda x: lax.clamp(x.dtype.type(0), x, x.dtype.type(1)), EDGES, proves="clamp")
elementwise("convert to bf16", lambda x: x.astype(jnp.bfloat16).astype(x.dtype) * x, FINITE, proves="convert_element_type")
elementwise("convert to f32", lambda x: x.astype(jnp.float32).astype(x.dtype) * x, FINITE, proves="convert_element_type", loosen=1e7)
elementwise("convert to int", lambda x: x.astype(jnp.int32).astype(x.dtype) * x, [0.0, 1.5, -2.5, 7.0], proves="convert_element_type")
elementwise("float to bool", lambda x: (x > 0).astype(x.dtype) * x, EDGES, proves="convert_element_type")
elementwise("copy", lambda x: jnp.array(x, copy=True) * x, EDGES)

for name in "relu relu6 silu gelu elu mish hard_swish hard_tanh leaky_relu celu selu squareplus soft_sign log_sigmoid softplus sigmoid".split():
    elementwise(name, getattr(jax.nn, name), EDGES + [6.0, 3.0], proves="activations", rounded=True)
for name in "log1mexp".split():
    elementwise(name, getattr(jax.nn, name), [0.5, 1.0, 2.5, 40.0, 0.0], proves="activations", rounded=True)
elementwise("logaddexp2", jnp.logaddexp2, *[[e for e in MILD if abs(e) != 100]] * 2, proves="activations", rounded=True)
SPECIAL = {
    "sinc": FINITE, "i0": FINITE, "i0e": LARGE, "i1": LARGE, "i1e": LARGE, "entr": EDGES, "logit": [0.0, 0.1, 0.5, 0.9, 1.0, -1.0, 2.0], "expit": EDGES,
    "ndtr": EDGES, "log_ndtr": FINITE, "ndtri": [0.1, 0.3, 0.5, 0.99], "gammaln": POSITIVE, "erfcx": [0.0, 0.5, -0.5, 2.5, 40.0], "dawsn": [0.0, 0.5, -0.5, 2.5],
    "expi": [0.5, 1.0, -0.5, -3.0, 2.5], "gamma": [0.5, 1.0, 2.5, 3.0], "factorial": [0.5, 1.0, 2.5], "spence": [0.5, 1.5, 2.5, 1.0],
}
for name, points in SPECIAL.items():
    module = jnp if name in ("sinc", "i0") else jax.scipy.special
    elementwise(f"special {name}", getattr(module, name), points, proves="special", rounded=True)
for name in "xlogy xlog1py rel_entr kl_div".split():
    elementwise(f"special {name}", getattr(jax.scipy.special, name), *[[0.0, 1.0, 0.5, 2.5, 1e-5, 40.0]] * 2, proves="special", rounded=True)
elementwise("special zeta", lambda q: jax.scipy.special.zeta(2.5, q), [0.5, 1.0, 2.5], proves="special", rounded=True)
elementwise("special gammainc", lambda x: jax.scipy.special.gammainc(1.5, x), [0.5, 1.0, 2.5, 40.0], proves="special", rounded=True)
elementwise("special betaln", jax.scipy.special.betaln, *[[0.5, 1.0, 2.5, 40.0]] * 2, proves="special", rounded=True)
elementwise("gelu exact", lambda x: jax.nn.gelu(x, approximate=False), EDGES, proves="activations", rounded=True)
elementwise("log abs", lambda x: jnp.log(jnp.abs(x) + 1e-6), EDGES, proves="abs log")

# --- Two operands ------------------------------------------------------------------------------------------------

for name in "add sub mul div max min atan2 rem".split():
    elementwise(name, getattr(lax, name), MILD, MILD)
elementwise("pow", lax.pow, FINITE, [e for e in MILD if np.isfinite(e)])
elementwise("pow, constant exponent", lambda x: x**2.5, EDGES, proves="pow")
elementwise("pow, constant base", lambda x: lax.pow(lax.full_like(x, 0.9), x), EDGES, proves="pow")
elementwise("logaddexp", jnp.logaddexp, *[[e for e in MILD if abs(e) != 100]] * 2, proves="activations")
elementwise("clamp", lax.clamp, *[[0.0, 1.0, -1.0, 0.5, 2.0, inf, -inf]] * 3)
case("pow, integer exponent", lambda x, n: lax.pow(x, n), np.repeat([0.0, 1.0, -2.0, 0.9], 4), np.tile(np.int32([0, 1, 2, -3]), 4), proves="pow")
case("bias correction", lambda x, n: x / (1 - 0.9 ** n.astype(x.dtype)), normal(3), np.int32(3), proves="pow div")
case("scalar operand", lambda x, s: jnp.maximum(x, s) + s * x + jnp.minimum(s, x), normal(3), np.float64(0.3), proves="max min")

for name in "lgamma digamma bessel_i0e bessel_i1e".split():
    elementwise(name, getattr(lax, name), POSITIVE if "gamma" in name else LARGE, rounded=True)
elementwise("polygamma", lambda x: lax.polygamma(lax.full_like(x, 1), x), POSITIVE, rounded=True)
elementwise("igamma", lambda x: lax.igamma(lax.full_like(x, 1.5), x), POSITIVE, rounded=True)
case("igamma in a", lambda a, x: lax.igamma(a, x), np.array([0.5, 1.5, 3.0]), np.array([0.5, 1.5, 7.0]), orders=1, proves="igamma igamma_grad_a", rounded=True)
elementwise("igammac", lambda x: lax.igammac(lax.full_like(x, 1.5), x), POSITIVE, rounded=True)
elementwise("betainc", lambda x: lax.betainc(lax.full_like(x, 1.5), lax.full_like(x, 2.0), x), [0.1, 0.5, 0.9], proves="regularized_incomplete_beta", rounded=True)

# --- Constants of differentiation, and zeros that JAX does not have --------------------------------------------

POINTS = np.array([0.0, 1.0, 2.0, 0.25])
case("stop_gradient", lambda x: lax.stop_gradient(x) * x * x, normal(4))
case("stop_gradient at a singular point", lambda x: lax.stop_gradient(jnp.sqrt(x)) + jnp.exp(x), POINTS, proves="stop_gradient")
case("stop_gradient of log", lambda x: lax.stop_gradient(jnp.log(x + 1)) * x, POINTS, proves="stop_gradient")
case("unused", lambda x: (jnp.log(x), jnp.exp(x))[1], POINTS, proves="stop_gradient")
case("compared only", lambda x: jnp.where(jnp.log(x) > 0, x, 2 * x), POINTS, proves="select_n")
case("straight through", lambda x: x + lax.stop_gradient(jnp.round(x) - x), normal(4), proves="stop_gradient round")

# --- Shapes ------------------------------------------------------------------------------------------------------

A, B = normal(2, 3, 4), normal(2, 3, 4)
case("reshape", lambda x: x.reshape(6, 4) ** 2, A)
case("transpose", lambda x: x.transpose(2, 0, 1) ** 2, A)
case("broadcast_in_dim", lambda x: jnp.broadcast_to(x[:, None], (2, 5, 3, 4)) ** 2, A)
case("squeeze", lambda x: jnp.squeeze(x[:1], 0) ** 2, A)
case("expand_dims", lambda x: lax.expand_dims(x, (1,)) ** 2, A, proves="broadcast_in_dim reshape")
case("concatenate", lambda x, y: jnp.concatenate([x, y * y, x], 1) ** 2, A, B)
case("concatenate empty", lambda x: jnp.concatenate([x, x[:, :0]], 1) ** 2, A, proves="concatenate")
case("stack", lambda x, y: jnp.stack([x, y], 1) ** 2, A, B)
case("unstack", lambda x: [y * y for y in jnp.unstack(x, axis=1)], A)
case("tile", lambda x: jnp.tile(x, (2, 1, 3)) ** 2, A)
case("pad", lambda x: lax.pad(x * x, lax.full((), 0.7, x.dtype), ((1, 2, 0), (0, 0, 1), (0, 1, 0))) ** 2, A)
for config in (((-1, 2, 0), (1, -2, 1)), ((0, -1, 2), (-2, -1, 0))):
    case(f"pad {config}", lambda x, c=config: lax.pad(x * x, lax.full((), 0.7, x.dtype), c) ** 2, normal(4, 5), proves="pad")
case("add_any", lambda x, y: jax.grad(lambda x: jnp.sum(jnp.sin(x) * x * y))(x), normal(3), normal(3))
case("rev", lambda x: lax.rev(x, (0, 2)) ** 2, A)
case("slice", lambda x: lax.slice(x, (0, 1, 0), (2, 3, 4), (1, 1, 2)) ** 2, A)
case("split", lambda x: [y * y for y in jnp.split(x, [1, 3], 2)], A)
case("roll", lambda x: jnp.roll(x, 1, 1) * x, A, proves="slice concatenate")
case("tril", lambda x: jnp.tril(x) ** 2, A, proves="select_n")
case("diag", lambda x: jnp.diagonal(x, axis1=1, axis2=2) ** 2, A, proves="gather")
case("outputs", lambda x, y: (x * y, jnp.sum(x), y), A, B, proves="mul")
case("empty", lambda x: jnp.sum(x * x, 0), np.zeros((0, 3)), proves="reduce_sum")

for start in (0, 1, 2, 5, -1):
    case(f"dynamic_slice {start}", lambda x, i: lax.dynamic_slice_in_dim(x, i, 2, 2) ** 2, A, np.int32(start), proves="dynamic_slice")
    case(f"dynamic_update_slice {start}", lambda x, y, i: lax.dynamic_update_slice_in_dim(x * x, y[:, :, :2] ** 2, i, 2) ** 2, A, B,
         np.int32(start), proves="dynamic_update_slice")

# --- Gathers and scatters: repeated indices, negative ones, out of bounds ---------------------------------------

TABLE = normal(5, 3)
for label, rows in {"plain": [0, 3], "repeated": [2, 2, 2, 1], "negative": [-1, 0], "outside": [1, 7, -9]}.items():
    rows = np.int32(rows)
    U = normal(len(rows), 3)
    distinct = label != "repeated"
    for mode in ("fill", "clip"):
        case(f"take {label} {mode}", lambda x, i, mode=mode: jnp.take(x * x, i, 0, mode=mode) ** 2, TABLE, rows, proves="gather")
        case(f"at add {label} {mode}", lambda x, u, i, mode=mode: (x * x).at[i].add(u * u, mode=mode) ** 2, TABLE, U, rows, proves="scatter-add")
        if distinct and (label, mode) != ("outside", "clip"):
            case(f"at set {label} {mode}", lambda x, u, i, mode=mode: (x * x).at[i].set(u * u, mode=mode, unique_indices=True) ** 2, TABLE, U, rows, proves="scatter")
case("gather promised", lambda x, i: x.at[i].get(mode="promise_in_bounds") ** 2, TABLE, np.int32([2, 2, 1]), proves="gather")
case("index", lambda x, i: x[i] ** 2, TABLE, np.int32([[0, 1], [4, 4]]), proves="gather")
case("index two axes", lambda x, i: x[i, i % 3] ** 2, TABLE, np.int32([0, 4, 4]), proves="gather")
case("at add constant", lambda u, i: jnp.zeros((5, 3), u.dtype).at[i].add(u * u) ** 2, normal(3, 3), np.int32([1, 1, 4]), proves="scatter-add")
case("at set constant", lambda x, i: (x * x).at[i].set(0.0) ** 2, TABLE, np.int32([1, 4]), proves="scatter")
case("at set unique", lambda x, u, i: (x * x).at[i].set(u * u, unique_indices=True) ** 2, TABLE, normal(2, 3), np.int32([1, 4]), proves="scatter")
case("at add two axes", lambda x, u, i: x.at[i, i % 3].add(u * u) ** 2, TABLE, normal(3), np.int32([0, 4, 4]), proves="scatter-add")
case("take_along_axis", lambda x, i: jnp.take_along_axis(x, i, 1) ** 2, TABLE, np.int32([[0], [2], [1], [1], [0]]), proves="gather")
case("gather infinite", lambda x, i: jnp.exp(jnp.take(x, i, 0)), np.array([0.0, -inf, 1.0]), np.int32([1, 1, 0]), proves="gather")
case("one_hot", lambda x, i: jax.nn.one_hot(i, 3, dtype=x.dtype) @ x, TABLE[:3], np.int32([2, 0]), proves="dot_general")

# --- Reductions --------------------------------------------------------------------------------------------------

TIES = np.array([[1.0, 3.0, 3.0, -2.0], [0.0, 0.0, -0.0, 0.0], [-inf, 2.0, -inf, 2.0], [-inf] * 4, [inf, 1.0, inf, -inf], [5.0, 1.0, 2.0, 3.0]])
for name, fn in {"reduce_max": jnp.max, "reduce_min": jnp.min}.items():
    case(name, lambda x, fn=fn: fn(x, 1), TIES)
    case(f"{name} over all", fn, np.array([[1.0, 3.0], [3.0, 2.0]]), proves=name)
    case(f"{name} nan", lambda x, fn=fn: fn(x, 1), np.array([[1.0, nan, 2.0], [3.0, 3.0, 1.0]]), proves=name)
    case(f"{name} smooth", lambda x, fn=fn: fn(x * x, (0, 2)) ** 2, A, proves=name)
case("reduce_sum", lambda x: jnp.sum(x * x, (0, 2)) ** 2, A, rounded=True)
case("mean var", lambda x: (x - jnp.mean(x, 1, keepdims=True)) / jnp.sqrt(jnp.var(x, 1, keepdims=True) + 1e-5), A, proves="reduce_sum", rounded=True)
case("reduce_prod", lambda x: jnp.prod(x, 1), np.array([[1.0, 2.0, 3.0, -1.5, 0.5], [0.0, 2.0, 3.0, 1.0, 1.0], [0.0, 0.0, 2.0, 1.0, 1.0]]), rounded=True)
case("reduce_prod all", lambda x: jnp.prod(x), normal(2, 3), proves="reduce_prod", rounded=True)
case("argmax", lambda x: jnp.argmax(x, 1).astype(x.dtype)[:, None] * x + jnp.argmin(x, 1).astype(x.dtype)[:, None], A, proves="argmax argmin")
case("optimization_barrier", lambda x: lax.optimization_barrier(x * x) ** 2, A)
case("any", lambda x: jnp.where(jnp.any(x > 1) & jnp.all(x < 9), x, x * x), A, proves="select_n")
case("norm", lambda x: jnp.linalg.norm(x, axis=1), np.array([[3.0, 4.0], [0.0, 0.0], [1.0, 0.0]]), proves="sqrt reduce_sum", rounded=True)
case("clip by norm", lambda x: x * jnp.minimum(1.0, 2.0 / jnp.sqrt(jnp.sum(x * x))), normal(5), proves="min sqrt", rounded=True)
for axis, reverse in ((0, False), (1, True)):
    for name in ("cumsum", "cumprod", "cummax", "cummin"):
        X = np.array([[1.0, 2.0, 2.0, 0.0, -1.0], [2.0, 1.0, 2.0, 0.0, 3.0], [2.0, 2.0, 1.0, 5.0, 3.0]])
        case(f"{name} {axis}", lambda x, f=getattr(lax, name), a=axis, r=reverse: f(x, axis=a, reverse=r), X, proves=name, rounded=True)
case("cumlogsumexp ties", lambda x: lax.cumlogsumexp(x, axis=1, reverse=True), np.array([[0.0, 0.0, 1.0], [-inf, 0.0, 0.0], [2.0, 2.0, 2.0]]), proves="cumlogsumexp", rounded=True)
case("cumlogsumexp", lambda x: lax.cumlogsumexp(x, axis=1), normal(3, 5), rounded=True)

# --- Orderings ---------------------------------------------------------------------------------------------------

case("sort", lambda x: jnp.sort(x, 1) * jnp.arange(4.0), TIES[[0, 1, 5]])
case("sort descending", lambda x: jnp.sort(x, 1, descending=True) * jnp.arange(4.0), TIES[[0, 1, 5]], proves="sort")
case("sort two", lambda x, y: lax.sort((x, y * y), dimension=1, num_keys=1), normal(3, 4), normal(3, 4), proves="sort")
case("sort with integers", lambda x, i: lax.sort((x, i), dimension=0, num_keys=1)[0] ** 2, normal(4), np.arange(4), proves="sort")
case("argsort", lambda x: x[jnp.argsort(x)] * jnp.arange(4.0), normal(4), proves="sort")
case("median", lambda x: jnp.median(x, 1), normal(3, 5), proves="sort")
case("quantile", lambda x: jnp.quantile(x, 0.3, 1), normal(3, 5), proves="sort", rounded=True)
case("top_k", lambda x: lax.top_k(x, 2)[0] ** 2, TIES[[0, 1, 5]])

# --- Contractions and windows ------------------------------------------------------------------------------------

case("matmul", lambda x, y: x @ y, normal(3, 4), normal(4, 5), proves="dot_general", rounded=True)
case("batched matmul", lambda x, y: jnp.einsum("bhqd,bhkd->bhqk", x, y), normal(2, 2, 3, 4), normal(2, 2, 5, 4), proves="dot_general", rounded=True)
case("contract two axes", lambda x, y: jnp.einsum("abc,bcd->da", x, y), normal(2, 3, 4), normal(3, 4, 2), proves="dot_general", rounded=True)
case("outer", lambda x, y: jnp.outer(x, y) ** 2, normal(3), normal(4), proves="dot_general mul")
case("matmul with itself", lambda x: x @ x.T, normal(3, 4), proves="dot_general", rounded=True)
case("matmul infinite", lambda x, y: jnp.exp(x) @ y, np.array([[0.0, -inf], [1.0, 2.0]]), normal(2, 2), proves="dot_general", rounded=True)

for name, types in {"bf16 to f32": (jnp.bfloat16, jnp.bfloat16, jnp.float32), "bf16 by f32": (jnp.bfloat16, jnp.float32, None)}.items():
    case(f"matmul {name}", lambda x, y, t=types: lax.dot(x.astype(t[0]), y.astype(t[1]), preferred_element_type=t[2]), normal(3, 4), normal(4, 5),
         proves="dot_general", rounded=True, loosen=1e9)

IMAGE = normal(2, 7, 6, 4)
for label, channels, options in (
    ("plain", 4, dict(window_strides=(1, 1), padding="SAME")),
    ("strided", 4, dict(window_strides=(2, 2), padding="VALID")),
    ("strided same", 4, dict(window_strides=(2, 1), padding="SAME")),
    ("dilated", 4, dict(window_strides=(1, 1), padding=((2, 1), (0, 2)), rhs_dilation=(2, 1))),
    ("transposed", 4, dict(window_strides=(1, 1), padding=((2, 2), (2, 2)), lhs_dilation=(2, 2))),
    ("grouped", 2, dict(window_strides=(1, 1), padding="SAME", feature_group_count=2)),
    ("depthwise", 1, dict(window_strides=(2, 2), padding="SAME", feature_group_count=4)),
    ("negative padding", 4, dict(window_strides=(1, 1), padding=((-1, 0), (1, 1)))),
):
    case(f"conv {label}", lambda x, k, o=options: lax.conv_general_dilated(x, k, dimension_numbers=("NHWC", "HWIO", "NHWC"), **o),
         IMAGE, normal(3, 2, channels, 4), proves="conv_general_dilated", rounded=True)
case("conv NCHW", lambda x, k: lax.conv(x, k, (1, 1), "SAME"), normal(2, 3, 5, 5), normal(4, 3, 3, 3), proves="conv_general_dilated", rounded=True)
case("conv 1d", lambda x, k: lax.conv_general_dilated(x, k, (1,), "SAME"), normal(2, 3, 6), normal(4, 3, 3), proves="conv_general_dilated", rounded=True)
case("conv batch groups", lambda x, k: lax.conv_general_dilated(x, k, (1,), "SAME", batch_group_count=2), normal(4, 3, 6), normal(4, 3, 3),
     proves="conv_general_dilated", rounded=True)

POOLED = np.round(normal(1, 6, 5, 2))  # rounded: ties within the windows
for label, dims, strides, padding in (("2x2", (1, 2, 2, 1), (1, 2, 2, 1), "VALID"), ("3x3 same", (1, 3, 3, 1), (1, 2, 1, 1), "SAME")):
    for name, init, op in (("sum", 0.0, lax.add), ("max", -inf, lax.max), ("min", inf, lax.min)):
        case(f"pool {name} {label}", lambda x, a=(init, op, dims, strides, padding): lax.reduce_window(x, *a) ** 2, POOLED,
             proves=f"reduce_window_{name}", rounded=True)
case("pool sum dilated", lambda x: lax.reduce_window(x, 0.0, lax.add, (1, 2, 2, 1), (1, 1, 1, 1), "VALID", (1, 2, 1, 1), (1, 2, 2, 1)) ** 2, POOLED,
     proves="reduce_window_sum", rounded=True)

# --- Models ------------------------------------------------------------------------------------------------------

LOGITS = np.array([[1.0, -1.0, 0.5, 0.0], [0.0, 0.0, 0.0, 0.0], [1e9, 0.0, -1e9, 1.0], [3.0, 3.0, -1e9, -1e9]])
case("softmax", jax.nn.softmax, LOGITS, proves="models", rounded=True)
case("log_softmax", jax.nn.log_softmax, LOGITS, proves="models", rounded=True)
case("logsumexp", lambda x: jax.nn.logsumexp(x, 1), LOGITS, proves="models", rounded=True)
case("masked softmax", lambda x: jax.nn.softmax(jnp.where(jnp.tril(jnp.ones((4, 4), bool)), x, -inf), -1), LOGITS, proves="models", rounded=True)
case("softmax where", lambda x: jax.nn.softmax(x, where=jnp.tril(jnp.ones((4, 4), bool))), LOGITS, proves="models", rounded=True)
case("logsumexp masked", lambda x: jax.nn.logsumexp(x, 1, where=jnp.tril(jnp.ones((4, 4), bool))), LOGITS, proves="models", rounded=True)
case("cross entropy", lambda x, i: -jnp.take_along_axis(jax.nn.log_softmax(x), i[:, None], 1).mean(), LOGITS[:2], np.int32([1, 3]), proves="models", rounded=True)
case("standardize", lambda x: jax.nn.standardize(x), A, proves="models", rounded=True)
case("dropout", lambda x, k: jnp.where(jax.random.bernoulli(k, 0.5, x.shape), x / 0.5, 0.0) ** 2, A, np.uint32([0, 7]), proves="models", rounded=True)
case("noise", lambda x, k: x * jax.random.normal(k, x.shape, x.dtype) ** 2, A, np.uint32([0, 7]), proves="models", rounded=True)
case("typed key", lambda x, k: x * jax.random.uniform(jax.random.fold_in(jax.random.wrap_key_data(k), 3), x.shape, x.dtype), A, np.uint32([0, 7]), proves="models", rounded=True)
case("attention", lambda q, k, v: jax.nn.softmax(jnp.where(jnp.tril(jnp.ones((3, 3), bool)), q @ k.T / 2, -1e9)) @ v,
     normal(3, 4), normal(3, 4), normal(3, 4), proves="models", rounded=True)
case("adam", lambda g, m, v, b, n: (0.1 * (b * m + (1 - b) * g) / (1 - b ** n)) / (jnp.sqrt((0.99 * v + 0.01 * g * g) / (1 - 0.99 ** n)) + 1e-8),
     normal(4), normal(4), normal(4) ** 2, np.float64(0.9), np.int32(3), proves="models", rounded=True)
case("adam dead parameter", lambda g, v: g / (jnp.sqrt(0.99 * v + 0.01 * g * g) + 1e-8), np.array([0.0, 1.0]), np.array([0.0, 1.0]), proves="models", rounded=True)
case("cosine schedule", lambda x, n: x * 0.5 * (1 + jnp.cos(jnp.pi * jnp.minimum(n.astype(x.dtype), 10.0) / 10)), normal(3), np.int32(4), proves="models")

# --- Calls -------------------------------------------------------------------------------------------------------

case("jit", lambda x: jax.jit(jnp.sin)(x) * jax.jit(jnp.sin)(2 * x), normal(3), proves="jit")
case("remat", lambda x: jax.checkpoint(lambda x: jnp.sin(jnp.sin(x)) * lax.stop_gradient(x))(x), normal(3))
case("cond", lambda x: lax.cond(x[0] > 0, jnp.sin, lambda x: x * lax.stop_gradient(x), x), normal(3))
case("switch", lambda x, i: lax.switch(i, [jnp.sin, lambda x: x * x, jnp.exp], x), normal(3), np.int32(1), proves="cond")

# The counters of loops are 64-bit here (x64 mode); elsewhere a pass widens them first.
ROWS = normal(4, 3)
case("scan", lambda x, xs: lax.scan(lambda c, t: (jnp.sin(c * t), c * c), x, xs), normal(3), ROWS)
case("scan carry only", lambda x, xs: lax.scan(lambda c, t: (jnp.sin(c * t), None), x, xs)[0], normal(3), ROWS, proves="scan")
case("scan reverse", lambda x, xs: lax.scan(lambda c, t: (c * t, c), x, xs, reverse=True), normal(3), ROWS, proves="scan")
case("scan once", lambda x, xs: lax.scan(lambda c, t: (c * t, c), x, xs), normal(3), ROWS[:1], proves="scan")
case("scan relu", lambda x, xs: lax.scan(lambda c, t: (jax.nn.relu(c) * jnp.maximum(t, 0.0) + lax.stop_gradient(c), c * c), x, xs), np.array([0.0, 1.0, -1.0]),
     np.array([[0.0, 2.0, 1.0], [1.0, 0.0, -1.0]]), proves="scan")
case("scan of scan", lambda x, xs: lax.scan(lambda c, t: (lax.scan(lambda d, u: (d * u, None), c, t)[0], jnp.sin(c)), x, xs), normal(), ROWS, proves="scan")
case("scan with integers", lambda x, xs, i: lax.scan(lambda c, t: ((c[0] * t, c[1] + 1), c[0] * c[1].astype(x.dtype)), (x, i), xs)[1], normal(3), ROWS, np.int32(2), proves="scan")
case("fori_loop", lambda x: lax.fori_loop(0, 3, lambda i, c: jnp.sin(c) * x * i.astype(x.dtype), x), normal(3), proves="scan")
case("map", lambda xs: lax.map(lambda r: jnp.sum(jnp.exp(r)), xs), ROWS, proves="scan", rounded=True)
case("associative_scan", lambda xs: lax.associative_scan(jnp.multiply, xs), ROWS, proves="mul", rounded=True)
case("scan of checkpoint", lambda x, xs: lax.scan(jax.checkpoint(lambda c, t: (jnp.sin(c * t), c * c)), x, xs), normal(3), ROWS, proves="scan remat")
