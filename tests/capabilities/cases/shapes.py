"""Reshapes, slices and what else moves elements."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .case import A, B, case, normal

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
case(
    "pad",
    lambda x: lax.pad(x * x, lax.full((), 0.7, x.dtype), ((1, 2, 0), (0, 0, 1), (0, 1, 0))) ** 2,
    A,
)
for config in (((-1, 2, 0), (1, -2, 1)), ((0, -1, 2), (-2, -1, 0))):
    case(
        f"pad {config}",
        lambda x, c=config: lax.pad(x * x, lax.full((), 0.7, x.dtype), c) ** 2,
        normal(4, 5),
        proves="pad",
    )
case(
    "add_any", lambda x, y: jax.grad(lambda x: jnp.sum(jnp.sin(x) * x * y))(x), normal(3), normal(3)
)
case("rev", lambda x: lax.rev(x, (0, 2)) ** 2, A)
case("slice", lambda x: lax.slice(x, (0, 1, 0), (2, 3, 4), (1, 1, 2)) ** 2, A)
case("split", lambda x: [y * y for y in jnp.split(x, [1, 3], 2)], A)
case("roll", lambda x: jnp.roll(x, 1, 1) * x, A, proves="slice concatenate")
case("tril", lambda x: jnp.tril(x) ** 2, A, proves="select_n")
case("diag", lambda x: jnp.diagonal(x, axis1=1, axis2=2) ** 2, A, proves="gather")
case("outputs", lambda x, y: (x * y, jnp.sum(x), y), A, B, proves="mul")
case("empty", lambda x: jnp.sum(x * x, 0), np.zeros((0, 3)), proves="reduce_sum")

for start in (0, 1, 2, 5, -1):
    case(
        f"dynamic_slice {start}",
        lambda x, i: lax.dynamic_slice_in_dim(x, i, 2, 2) ** 2,
        A,
        np.int32(start),
        proves="dynamic_slice",
    )
    case(
        f"dynamic_update_slice {start}",
        lambda x, y, i: lax.dynamic_update_slice_in_dim(x * x, y[:, :, :2] ** 2, i, 2) ** 2,
        A,
        B,
        np.int32(start),
        proves="dynamic_update_slice",
    )
case(
    "dynamic_slice of a scalar",
    lambda x: lax.dynamic_slice(x * x, (), ()) * x,
    normal(),
    proves="dynamic_slice",
)
case(
    "dynamic_update_slice of a scalar",
    lambda x, y: lax.dynamic_update_slice(x, y * y, ()) * x,
    normal(),
    normal(),
    proves="dynamic_update_slice",
)
