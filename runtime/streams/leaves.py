"""From the leaf of a batch, as a user's source gives it, to a NumPy array."""

from __future__ import annotations

import functools
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def flatten(batch: Any) -> tuple[list, Any]:
    """The leaves of a batch and its structure. A list of numbers is one leaf.

    In a pytree a list is a node; but rows of Hugging Face and JSON hold their arrays as lists.
    """
    return jax.tree.flatten(batch, is_leaf=_is_list_of_numbers)


def flatten_with_path(batch: Any) -> tuple[list, Any]:
    """`flatten`, with the key path of each leaf."""
    return jax.tree_util.tree_flatten_with_path(batch, is_leaf=_is_list_of_numbers)


def _is_list_of_numbers(value: Any) -> bool:
    """Whether it is a list, or a list of lists, that begins with a number."""
    if type(value) is not list or not value:
        return False
    return isinstance(value[0], (bool, int, float, np.generic)) or _is_list_of_numbers(value[0])


def as_array(value: Any) -> np.ndarray:
    """A leaf as a NumPy array of the dtype that it has by itself; typed keys as their key data.

    Raises:
      TypeError: it holds anything but real numbers and booleans, or is traced.
      ValueError: it is a list whose rows have different lengths.
    """
    # In the order of how often they come, and of what it costs to ask.
    if isinstance(value, np.ndarray):
        if isinstance(value, np.ma.MaskedArray):
            raise TypeError("is a masked array; say what its masked entries are: array.filled(...)")
        array = value
    elif isinstance(value, (bool, int, float, list, np.generic)):
        array = np.asarray(value)
    elif isinstance(value, (str, bytes)):
        raise TypeError(f"is of type {type(value).__name__}: {value!r:.60}")
    elif is_torch_tensor(value):
        array = _from_torch(value)
    elif isinstance(value, jax.core.Tracer):
        raise TypeError("is traced by JAX; a stream is read on the host, outside of jax.jit")
    elif isinstance(value, jax.Array):
        array = np.asarray(key_data(value))
    else:
        array = np.asarray(value)
    if not is_real(array.dtype):
        raise TypeError(f"is of type {type(value).__name__}, with dtype {array.dtype}")
    return array


@functools.cache
def is_real(dtype: Any) -> bool:
    """Whether a dtype is one of real numbers or booleans that JAX has too, in any byte order."""
    try:
        dtype = jax.typeof(np.empty(0, native(dtype))).dtype
    except TypeError:
        return False
    return not jnp.issubdtype(dtype, np.complexfloating)


def native(dtype: Any) -> np.dtype:
    """The dtype in this machine's byte order."""
    dtype = np.dtype(dtype)
    return dtype if dtype.isnative else dtype.newbyteorder("=")


def check_range(array: np.ndarray, value: Any, dtype: np.dtype) -> None:
    """Refuses Python integers that the program's dtype does not hold, as JAX does.

    NumPy's and PyTorch's wider integers wrap around, as they do in `jnp.asarray`.

    Raises:
      OverflowError: `value`, a Python number or a list of them, does not fit `dtype`.
    """
    if not isinstance(value, (int, list)) or array.dtype.kind not in "iu":
        return
    if array.dtype == dtype or not array.size:
        return
    low, high = _bounds(dtype)
    least, most = (value, value) if isinstance(value, int) else (array.min(), array.max())
    if least < low or most > high:
        raise OverflowError(f"has integers from {least} to {most}, beyond {dtype}")


@functools.cache
def _bounds(dtype: np.dtype) -> tuple[int, int]:
    info = jnp.iinfo(dtype)
    return int(info.min), int(info.max)


def key_data(array: jax.Array) -> jax.Array:
    """The key data of typed keys, and any other array as it is."""
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        return jax.random.key_data(array)
    return array


def is_torch_tensor(value: Any) -> bool:
    """Whether it is a tensor of PyTorch, which is not imported for that."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def _from_torch(tensor: Any) -> np.ndarray:
    """The memory of a tensor, without a copy if it is on the host."""
    tensor = tensor.detach().cpu()
    torch = sys.modules["torch"]
    if tensor.dtype == torch.bfloat16:  # NumPy has none of its own
        return tensor.view(torch.int16).numpy().view(jnp.bfloat16)
    return tensor.numpy()
