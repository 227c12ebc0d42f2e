"""Memory for states that come back, used again when no array is in it any more.

Memory that is new costs more than what is read into it: the system clears each of its pages when it
is touched first. A region is one state; the arrays of the state lie in it, without a copy where
JAX's arrays are in the host's memory. It comes back by itself when the last of them is gone.
"""

from __future__ import annotations

import contextlib
import mmap
import weakref

import numpy as np

_LARGE_PAGE = 2 * 2**20


class Regions:
    """Regions of one size. Threads may share them."""

    def __init__(self, size: int, keep: int):
        """
        Args:
          size: bytes of a region.
          keep: how many regions are kept for the next use; further ones are given back.
        """
        self._size, self._keep = size, keep
        self._free: list[mmap.mmap] = []

    def take(self) -> np.ndarray:
        """Bytes that begin at a page; what is in them is undefined."""
        try:
            memory = self._free.pop()
        except IndexError:
            memory = _pages(self._size)
        # JAX holds this array, or a view of it, as long as it uses the memory.
        region = np.frombuffer(memory, np.uint8, self._size)
        weakref.finalize(region, self._give_back, memory).atexit = False
        return region

    def close(self) -> None:
        """Gives the memory back to the system, as soon as no array is in it."""
        self._keep = 0
        self._free.clear()

    def _give_back(self, memory: mmap.mmap) -> None:
        if len(self._free) < self._keep:
            self._free.append(memory)


def pages(size: int) -> np.ndarray:
    """Zeros that begin at a page."""
    return np.frombuffer(_pages(size), np.uint8, size)


def _pages(size: int) -> mmap.mmap:
    memory = mmap.mmap(-1, max(size, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if size >= _LARGE_PAGE:
        # A disk moves them in fewer parts, and there is less to touch for the first time.
        with contextlib.suppress(OSError):
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memory
