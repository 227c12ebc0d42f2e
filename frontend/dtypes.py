"""What kind of number an array or an abstract value holds: the one place that says so."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp


def is_float(x: Any) -> bool:
    """Whether it has a real floating-point dtype.

    What has no dtype, a Python float too, has not.
    """
    return _has_dtype(x, jnp.floating)


def is_complex(x: Any) -> bool:
    """Whether it has a complex dtype. What has no dtype has not."""
    return _has_dtype(x, jnp.complexfloating)


def is_key(x: Any) -> bool:
    """Whether it is an array of typed PRNG keys, or the description of one."""
    return _has_dtype(x, jax.dtypes.prng_key)


def _has_dtype(x: Any, kind: Any) -> bool:
    return jnp.issubdtype(getattr(x, "dtype", jnp.int32), kind)
