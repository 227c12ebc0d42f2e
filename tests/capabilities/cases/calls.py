"""Calls, branches and loops."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from .case import case, normal

HERE = NamedSharding(Mesh(np.array(jax.devices()[:1]), "d"), PartitionSpec("d"))
case(
    "sharding_constraint",
    lambda x: jnp.sin(lax.with_sharding_constraint(jnp.sin(x), HERE)) * x,
    normal(3),
)
case("jit", lambda x: jax.jit(jnp.sin)(x) * jax.jit(jnp.sin)(2 * x), normal(3), proves="jit")
case(
    "remat",
    lambda x: jax.checkpoint(lambda x: jnp.sin(jnp.sin(x)) * lax.stop_gradient(x))(x),
    normal(3),
)
case(
    "cond", lambda x: lax.cond(x[0] > 0, jnp.sin, lambda x: x * lax.stop_gradient(x), x), normal(3)
)
case(
    "switch",
    lambda x, i: lax.switch(i, [jnp.sin, lambda x: x * x, jnp.exp], x),
    normal(3),
    np.int32(1),
    proves="cond",
)

# The counters of loops are 64-bit here (x64 mode); elsewhere a pass widens them first.
ROWS = normal(4, 3)
case("scan", lambda x, xs: lax.scan(lambda c, t: (jnp.sin(c * t), c * c), x, xs), normal(3), ROWS)
case(
    "scan carry only",
    lambda x, xs: lax.scan(lambda c, t: (jnp.sin(c * t), None), x, xs)[0],
    normal(3),
    ROWS,
    proves="scan",
)
case(
    "scan reverse",
    lambda x, xs: lax.scan(lambda c, t: (c * t, c), x, xs, reverse=True),
    normal(3),
    ROWS,
    proves="scan",
)
case(
    "scan once",
    lambda x, xs: lax.scan(lambda c, t: (c * t, c), x, xs),
    normal(3),
    ROWS[:1],
    proves="scan",
)
case(
    "scan relu",
    lambda x, xs: lax.scan(
        lambda c, t: (jax.nn.relu(c) * jnp.maximum(t, 0.0) + lax.stop_gradient(c), c * c), x, xs
    ),
    np.array([0.0, 1.0, -1.0]),
    np.array([[0.0, 2.0, 1.0], [1.0, 0.0, -1.0]]),
    proves="scan",
)
case(
    "scan of scan",
    lambda x, xs: lax.scan(
        lambda c, t: (lax.scan(lambda d, u: (d * u, None), c, t)[0], jnp.sin(c)), x, xs
    ),
    normal(),
    ROWS,
    proves="scan",
)
case(
    "scan with a choice of integers",
    lambda x, xs, i: lax.scan(
        lambda c, t: (
            (
                jnp.where(c[2], jnp.sin(c[0] * t), c[0]),
                jnp.where(c[2], c[1] + 1, c[1]),
                c[2] & (c[1] < 3),
            ),
            None,
        ),
        (x, i, i < 3),
        xs,
    )[0][0],
    normal(3),
    ROWS,
    np.int32(2),
    proves="scan",
)
case(
    "scan with integers",
    lambda x, xs, i: lax.scan(
        lambda c, t: ((c[0] * t, c[1] + 1), c[0] * c[1].astype(x.dtype)), (x, i), xs
    )[1],
    normal(3),
    ROWS,
    np.int32(2),
    proves="scan",
)
case(
    "fori_loop",
    lambda x: lax.fori_loop(0, 3, lambda i, c: jnp.sin(c) * x * i.astype(x.dtype), x),
    normal(3),
    proves="scan",
)
case(
    "map", lambda xs: lax.map(lambda r: jnp.sum(jnp.exp(r)), xs), ROWS, proves="scan", rounded=True
)
case(
    "associative_scan",
    lambda xs: lax.associative_scan(jnp.multiply, xs),
    ROWS,
    proves="mul",
    rounded=True,
)
case(
    "scan of checkpoint",
    lambda x, xs: lax.scan(jax.checkpoint(lambda c, t: (jnp.sin(c * t), c * c)), x, xs),
    normal(3),
    ROWS,
    proves="scan remat",
)
