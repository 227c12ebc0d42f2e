"""Reductions, prefixes and orderings."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from .case import A, case, inf, nan, normal

TIES = np.array(
    [
        [1.0, 3.0, 3.0, -2.0],
        [0.0, 0.0, -0.0, 0.0],
        [-inf, 2.0, -inf, 2.0],
        [-inf] * 4,
        [inf, 1.0, inf, -inf],
        [5.0, 1.0, 2.0, 3.0],
    ]
)
for name, fn in {"reduce_max": jnp.max, "reduce_min": jnp.min}.items():
    case(name, lambda x, fn=fn: fn(x, 1), TIES)
    case(f"{name} over all", fn, np.array([[1.0, 3.0], [3.0, 2.0]]), proves=name)
    case(
        f"{name} nan",
        lambda x, fn=fn: fn(x, 1),
        np.array([[1.0, nan, 2.0], [3.0, 3.0, 1.0]]),
        proves=name,
    )
    case(f"{name} smooth", lambda x, fn=fn: fn(x * x, (0, 2)) ** 2, A, proves=name)
case("reduce_sum", lambda x: jnp.sum(x * x, (0, 2)) ** 2, A, rounded=True)
case(
    "mean var",
    lambda x: (x - jnp.mean(x, 1, keepdims=True)) / jnp.sqrt(jnp.var(x, 1, keepdims=True) + 1e-5),
    A,
    proves="reduce_sum",
    rounded=True,
)
case(
    "reduce_prod",
    lambda x: jnp.prod(x, 1),
    np.array([[1.0, 2.0, 3.0, -1.5, 0.5], [0.0, 2.0, 3.0, 1.0, 1.0], [0.0, 0.0, 2.0, 1.0, 1.0]]),
    rounded=True,
)
case("reduce_prod all", lambda x: jnp.prod(x), normal(2, 3), proves="reduce_prod", rounded=True)
case(
    "bitcast_convert_type",
    lambda x: (
        (lax.bitcast_convert_type(x.astype(jnp.float32), jnp.int32) >> 3).astype(x.dtype) * x * 1e-9
    ),
    normal(3),
)
case(
    "argmax",
    lambda x: (
        jnp.argmax(x, 1).astype(x.dtype)[:, None] * x + jnp.argmin(x, 1).astype(x.dtype)[:, None]
    ),
    A,
    proves="argmax argmin",
)
case(
    "psum",
    lambda x: jax.vmap(lambda x: jnp.exp(x - jax.lax.pmean(x, "b")), axis_name="b")(x),
    normal(3, 2),
    rounded=True,
)
case("name", lambda x: checkpoint_name(x * x, "squares") ** 2, normal(3))
case("optimization_barrier", lambda x: lax.optimization_barrier(x * x) ** 2, A)
case("any", lambda x: jnp.where(jnp.any(x > 1) & jnp.all(x < 9), x, x * x), A, proves="select_n")
case(
    "norm",
    lambda x: jnp.linalg.norm(x, axis=1),
    np.array([[3.0, 4.0], [0.0, 0.0], [1.0, 0.0]]),
    proves="sqrt reduce_sum",
    rounded=True,
)
case(
    "clip by norm",
    lambda x: x * jnp.minimum(1.0, 2.0 / jnp.sqrt(jnp.sum(x * x))),
    normal(5),
    proves="min sqrt",
    rounded=True,
)
for axis, reverse in ((0, False), (1, True)):
    for name in ("cumsum", "cumprod", "cummax", "cummin"):
        X = np.array(
            [[1.0, 2.0, 2.0, 0.0, -1.0], [2.0, 1.0, 2.0, 0.0, 3.0], [2.0, 2.0, 1.0, 5.0, 3.0]]
        )
        case(
            f"{name} {axis}",
            functools.partial(getattr(lax, name), axis=axis, reverse=reverse),
            X,
            proves=name,
            rounded=True,
        )
case(
    "cumlogsumexp ties",
    lambda x: lax.cumlogsumexp(x, axis=1, reverse=True),
    np.array([[0.0, 0.0, 1.0], [-inf, 0.0, 0.0], [2.0, 2.0, 2.0]]),
    proves="cumlogsumexp",
    rounded=True,
)
case("cumlogsumexp", lambda x: lax.cumlogsumexp(x, axis=1), normal(3, 5), rounded=True)

case("sort", lambda x: jnp.sort(x, 1) * jnp.arange(4.0), TIES[[0, 1, 5]])
case(
    "sort descending",
    lambda x: jnp.sort(x, 1, descending=True) * jnp.arange(4.0),
    TIES[[0, 1, 5]],
    proves="sort",
)
case(
    "sort two",
    lambda x, y: lax.sort((x, y * y), dimension=1, num_keys=1),
    normal(3, 4),
    normal(3, 4),
    proves="sort",
)
case(
    "sort with integers",
    lambda x, i: lax.sort((x, i), dimension=0, num_keys=1)[0] ** 2,
    normal(4),
    np.arange(4),
    proves="sort",
)
case("argsort", lambda x: x[jnp.argsort(x)] * jnp.arange(4.0), normal(4), proves="sort")
case("median", lambda x: jnp.median(x, 1), normal(3, 5), proves="sort")
case("quantile", lambda x: jnp.quantile(x, 0.3, 1), normal(3, 5), proves="sort", rounded=True)
case("top_k", lambda x: lax.top_k(x, 2)[0] ** 2, TIES[[0, 1, 5]])
case(
    "approx_max_k",
    lambda x: lax.approx_max_k(x * x, 2)[0] ** 2,
    TIES[[0, 1, 5]],
    proves="approx_top_k",
)
case(
    "approx_min_k",
    lambda x: lax.approx_min_k(x * x, 2, reduction_dimension=0)[0] ** 2,
    normal(5, 3),
    proves="approx_top_k",
)
