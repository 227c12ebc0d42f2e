"""Gives back the pages of memmaps that a stream has read.

What is read through a memory map counts as the process's memory until the kernel is short of it, so
a run over a file of 100 GB would seem to need all the memory of the machine. Pages that are given
back stay in the kernel's cache of the file: reading them again costs no access to the disk.
"""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

_MOST = 2**27
"""Bytes by which the mapped memory may grow before it is given back."""

_AROUND = 2**21
"""Bytes that the kernel may map where one page is touched: a large folio of the file's cache."""

_STATUS = "/proc/self/statm"


class MappedPages:
    """The memory maps of some arrays, and how much this process's mapped memory has grown.

    Attributes:
      rows_at_once: how many rows may be read between two calls of `touched`; None for any number.
    """

    def __init__(self, arrays: Sequence[Any], *, scattered: bool):
        """Takes the memmaps among the arrays.

        Not those of a private mapping (mode "c"), whose pages may hold what is in no file.

        Args:
          arrays: all arrays of a source, with one number of rows.
          scattered: whether rows are read from anywhere, and not one behind the other.
        """
        mapped = [array for array in arrays if _is_shared_mapping(array)]
        self._mappings = list({id(array._mmap): array._mmap for array in mapped}.values())
        self.rows_at_once: int | None = None
        if self._mappings:
            around = _AROUND if scattered else 0
            self.rows_at_once = max(1, _MOST // sum(row[0].nbytes + around for row in mapped))
            self._least = _mapped_bytes()
        self._lock = threading.Lock()

    def touched(self) -> None:
        """Gives all pages back if there are many. To be called after each read, by any thread."""
        if not self._mappings:
            return
        with self._lock:
            if _mapped_bytes() - self._least < _MOST:
                return
            for mapping in self._mappings:
                mapping.madvise(mmap.MADV_DONTNEED)
            self._least = _mapped_bytes()


def _is_shared_mapping(array: Any) -> bool:
    if not isinstance(array, np.memmap) or array.mode == "c" or not os.path.exists(_STATUS):
        return False
    return getattr(array, "_mmap", None) is not None


def _mapped_bytes() -> int:
    """Bytes of files in this process's memory, libraries too."""
    with open(_STATUS, "rb") as file:
        return int(file.read().split()[2]) * mmap.PAGESIZE
