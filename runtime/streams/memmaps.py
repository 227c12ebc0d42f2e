"""A stream is pickled with its memmaps as file names; the process that loads it opens them anew.

NumPy itself would put all bytes of a memmap into the pickle.
"""

from __future__ import annotations

import dataclasses
import mmap
import os
from typing import Any

import jax
import numpy as np


@dataclasses.dataclass(frozen=True)
class MappedFile:
    """A memmap, or a view of one, without its bytes.

    Attributes:
      filename: an absolute path.
      position: of the first entry in the file, in bytes.
      shape, strides, dtype: of the array, as NumPy has them.
      length: of the file, in bytes.
    """

    filename: str
    position: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: np.dtype
    length: int

    def open(self) -> np.ndarray:
        """The same array, as a read-only memmap of this process.

        Raises:
          OSError: there is no such file any more.
          ValueError: it has another length.
        """
        length = os.path.getsize(self.filename)
        if length != self.length:
            raise ValueError(
                f"{self.filename} has {length:,} bytes, and had {self.length:,} when the stream "
                "was pickled"
            )
        whole = np.memmap(self.filename, np.uint8, "r")
        entry = whole[self.position : self.position + self.dtype.itemsize].view(self.dtype)
        return np.lib.stride_tricks.as_strided(entry, self.shape, self.strides, subok=True)


def without_bytes(tree: Any) -> Any:
    """A pytree with a `MappedFile` in the place of each memmap."""
    return jax.tree.map(lambda leaf: _described(leaf) if _is_mapped(leaf) else leaf, tree)


def with_bytes(tree: Any) -> Any:
    """The inverse of `without_bytes`."""
    return jax.tree.map(lambda leaf: leaf.open() if isinstance(leaf, MappedFile) else leaf, tree)


def _is_mapped(leaf: Any) -> bool:
    return (
        isinstance(leaf, np.memmap) and getattr(leaf, "_mmap", None) is not None and leaf.size > 0
    )


def _described(array: np.memmap) -> MappedFile:
    if array.filename is None or not os.path.isfile(array.filename):
        raise TypeError("a memmap of a file without a name cannot be pickled with a stream")
    if array.mode == "c":
        raise TypeError(
            f"the memmap of {array.filename} has the mode 'c': what was written to it is in no "
            "file, so a stream of it cannot be pickled. Open it with the mode 'r'."
        )
    # NumPy maps from a multiple of the granularity; `offset` is that of the array that was opened,
    # for its views too.
    mapping = np.frombuffer(array._mmap, np.uint8)  # type: ignore[attr-defined]
    first = array.offset - array.offset % mmap.ALLOCATIONGRANULARITY
    return MappedFile(
        os.path.abspath(array.filename),
        first + array.ctypes.data - mapping.ctypes.data,
        array.shape,
        array.strides,
        array.dtype,
        os.path.getsize(array.filename),
    )
