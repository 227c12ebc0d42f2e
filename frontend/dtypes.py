"""What kind of number an array or an abstract value holds: the one place that says so."""

from __future__ import annotations

import functools
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


def holds_all_of(wide: Any, narrow: Any) -> bool:
    """Whether one floating-point dtype has all the values of another.

    JAX's promotion does not say it: what it allows depends on a setting, and it has no path for
    8-bit floats.
    """
    wide, narrow = jnp.dtype(wide), jnp.dtype(narrow)
    if not (jnp.issubdtype(wide, jnp.floating) and jnp.issubdtype(narrow, jnp.floating)):
        return False
    if wide.itemsize < 2:  # Not all of them have an infinity, or a negative zero.
        return False
    one, other = jnp.finfo(wide), jnp.finfo(narrow)
    return one.nmant >= other.nmant and one.maxexp >= other.maxexp and one.minexp <= other.minexp


def promoted(*dtypes: Any) -> Any:
    """The dtype that JAX promotes these to by its standard rules, whatever rules are set.

    Where one of them has all the values of the others it is that one, beside 8-bit floats too.
    """
    for wide in dtypes:
        if all(dtype == wide or holds_all_of(wide, dtype) for dtype in dtypes):
            return jnp.dtype(wide)
    with jax.numpy_dtype_promotion("standard"):
        return jnp.result_type(*dtypes)


def _has_dtype(x: Any, kind: Any) -> bool:
    return _is_kind(getattr(x, "dtype", _WITHOUT), kind)


_WITHOUT = jnp.dtype(jnp.int32)


@functools.cache
def _is_kind(dtype: Any, kind: Any) -> bool:
    """Analyses ask this of each variable again and again, and NumPy's answer takes microseconds."""
    return bool(jnp.issubdtype(dtype, kind))
