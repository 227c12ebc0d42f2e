"""A file of slots that nobody else sees.

The file has no name: it goes away with the process, also if that is killed, and there is nothing to
clear up. Its blocks are taken when it is made, so a disk that is too small says so then. Bytes go
past the page cache where the file system allows it (O_DIRECT), which is faster, takes less of the
processor, and leaves the cache to others; where it does not, they are dropped from the cache.

`python -m benchmarks.tiers` has the measurements that this rests on.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import pathlib
import tempfile
import weakref
from collections.abc import Sequence

import numpy as np
import xxhash

from metagrad.runtime.tiers.regions import pages

BLOCK = 4096
"""Slots begin at multiples of this, and are read and written in multiples of it."""

CHUNK = 2 * 2**20
"""Bytes that one call of the system moves."""

_NOT_SUPPORTED = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS)


class Damaged(Exception):
    """The bytes of a slot are not those that were written to it."""


class SlotFile:
    """Slots of equal size in one file, each with a checksum of what was written last.

    One thread may write while another one reads, if the slots are different ones.
    """

    def __init__(self, directory: pathlib.Path, slots: int, slot_bytes: int):
        """
        Args:
          directory: where the file is; it must exist.
          slots: how many.
          slot_bytes: the size of each, a multiple of BLOCK.

        Raises:
          OSError: the directory cannot be written, or has no room.
        """
        self.slot_bytes = slot_bytes
        self.descriptor = _unnamed_file(directory)
        self._finalizer = weakref.finalize(self, os.close, self.descriptor)
        try:
            _take_blocks(self.descriptor, slots * slot_bytes)
            self.direct = _go_past_the_cache(self.descriptor)
        except BaseException:
            self.close()
            raise
        self._checksums: list[bytes | None] = [None] * slots
        # Writes go through it: the disk reads from whole pages, and arrays begin anywhere.
        self._chunk = pages(min(CHUNK, slot_bytes))

    def close(self) -> None:
        """Gives the blocks back. No read or write is running."""
        self._finalizer()

    def write(self, slot: int, parts: Sequence[tuple[int, np.ndarray]]) -> None:
        """Writes a slot. What no part covers is undefined.

        Args:
          slot: the number of the slot.
          parts: bytes, each with its offset in the slot, in the order of the offsets.

        Raises:
          OSError: that was not possible; the slot is then empty.
        """
        self._checksums[slot] = None
        checksum = xxhash.xxh3_128()
        number = 0
        for start in range(0, self.slot_bytes, CHUNK):
            chunk = self._chunk[: self.slot_bytes - start]
            end = start + len(chunk)
            while number < len(parts):
                offset, part = parts[number]
                first, last = max(offset, start), min(offset + len(part), end)
                if first < last:
                    target = chunk[first - start : last - start]
                    np.copyto(target, part[first - offset : last - offset])
                if offset + len(part) > end:
                    break
                number += 1
            checksum.update(chunk)
            self._write_chunk(slot * self.slot_bytes + start, chunk)
        if not self.direct:
            os.fdatasync(self.descriptor)
            self._drop_from_cache(slot)
        self._checksums[slot] = checksum.digest()

    def read(self, slot: int, memory: np.ndarray) -> None:
        """Reads a slot.

        Args:
          slot: the number of the slot.
          memory: `slot_bytes` bytes, beginning at a page.

        Raises:
          OSError: that was not possible.
          Damaged: the bytes are not those that were written.
        """
        checksum = xxhash.xxh3_128()
        for start in range(0, self.slot_bytes, CHUNK):
            chunk = memory[start : start + CHUNK]
            self._read_chunk(slot * self.slot_bytes + start, chunk)
            checksum.update(chunk)
        if not self.direct:
            self._drop_from_cache(slot)
        if checksum.digest() != self._checksums[slot]:
            raise Damaged

    def _write_chunk(self, place: int, chunk: np.ndarray) -> None:
        written = 0
        while written < len(chunk):
            written += os.pwrite(self.descriptor, chunk[written:], place + written)

    def _read_chunk(self, place: int, chunk: np.ndarray) -> None:
        filled = 0
        while filled < len(chunk):
            count = os.preadv(self.descriptor, [chunk[filled:]], place + filled)
            if not count:
                raise Damaged  # Something has cut the file off.
            filled += count

    def _drop_from_cache(self, slot: int) -> None:
        os.posix_fadvise(
            self.descriptor, slot * self.slot_bytes, self.slot_bytes, os.POSIX_FADV_DONTNEED
        )


def _unnamed_file(directory: pathlib.Path) -> int:
    with contextlib.suppress(OSError):
        return os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    # Not every file system has files without names: some give a file, and take its name away.
    descriptor, name = tempfile.mkstemp(dir=directory, prefix="metagrad-slots-")
    os.unlink(name)
    return descriptor


def _take_blocks(descriptor: int, size: int) -> None:
    """Takes the blocks of the file; where the file system cannot, sets its size alone.

    `os.posix_fallocate` would write to every block instead, which takes as long as a run.
    """
    if not size:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    offsets = ctypes.c_int64(0), ctypes.c_int64(size)
    while libc.fallocate64(descriptor, 0, *offsets):
        number = ctypes.get_errno()
        if number == errno.EINTR:
            continue
        if number not in _NOT_SUPPORTED:
            raise OSError(number, os.strerror(number))
        os.ftruncate(descriptor, size)
        return


def _go_past_the_cache(descriptor: int) -> bool:
    """Switches the page cache off for a file of at least a block, if that is possible."""
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | os.O_DIRECT)
        os.pwrite(descriptor, pages(BLOCK), 0)
        return True
    except OSError as error:
        if error.errno not in _NOT_SUPPORTED:
            raise
    fcntl.fcntl(descriptor, fcntl.F_SETFL, flags)
    return False
