"""Shapes and dtypes in a manifest: `{"shape": [2, 3], "dtype": "float32"}`."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

from metagrad.runtime.exported.fields import Fields


def to_json(aval: Any) -> dict:
    return {"shape": list(aval.shape), "dtype": jnp.dtype(aval.dtype).name}


def from_json(fields: Fields) -> jax.ShapeDtypeStruct:
    """The shape and dtype.

    Raises:
      ValueError: there is no such shape or dtype.
    """
    shape, name = fields.sequence("shape"), fields.text("dtype")
    if not all(type(size) is int and 0 <= size < 2**63 for size in shape):
        raise ValueError(f"{fields.place}.shape is not a list of sizes: {shape!r}")
    dtype = _DTYPES.get(name)
    if dtype is None:
        raise ValueError(f"{fields.place}.dtype is {name!r}, which no array has here")
    if math.prod(shape) * dtype.itemsize >= 2**63:
        raise ValueError(f"{fields.place} has more than 2^63 bytes: {name}{shape}")
    return jax.ShapeDtypeStruct(tuple(shape), dtype)


_DTYPES = {
    jnp.dtype(scalar).name: jnp.dtype(scalar)
    for scalar in (
        jnp.bool_,
        *(jnp.int4, jnp.int8, jnp.int16, jnp.int32, jnp.int64),
        *(jnp.uint4, jnp.uint8, jnp.uint16, jnp.uint32, jnp.uint64),
        *(jnp.bfloat16, jnp.float16, jnp.float32, jnp.float64),
        *(jnp.float8_e4m3b11fnuz, jnp.float8_e4m3fn, jnp.float8_e4m3fnuz, jnp.float8_e4m3),
        *(jnp.float8_e5m2, jnp.float8_e5m2fnuz, jnp.float8_e3m4, jnp.float8_e8m0fnu),
    )
}
"""What an array may hold, by name. A name from a file is looked up here and nowhere else."""
