"""NumPy arrays that XLA takes as they are."""

from __future__ import annotations

from typing import Any

import numpy as np

_LARGE = 2**16
"""Bytes from which a second copy would take longer than avoiding it."""

_ALIGNMENT = 64
"""Bytes. XLA takes a host array that starts at a multiple of this as it is, and copies others."""


def empty_for_xla(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An uninitialised array that XLA takes without a copy. Nobody may write to it afterwards."""
    dtype = np.dtype(dtype)
    size = dtype.itemsize
    for extent in shape:
        size *= extent
    memory = np.empty(size + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(shape)


def copy_for_xla(array: np.ndarray, dtype: Any) -> np.ndarray:
    """One copy of a NumPy array or a memmap, for XLA.

    XLA takes NumPy arrays as they are, and may read them when the call has returned and the user
    has written to them. (`jax.device_put(..., may_alias=False)` of a NumPy array does so too.) A
    copy that NumPy places anywhere would be copied once more.
    """
    if array.nbytes < _LARGE:
        return np.array(array, dtype)
    aligned = empty_for_xla(array.shape, dtype)
    np.copyto(aligned, array, casting="unsafe")
    return aligned
