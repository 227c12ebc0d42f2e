"""The tier on disk."""

from __future__ import annotations

import errno
import os
import pathlib
import tempfile
from collections.abc import Callable, Sequence

import numpy as np
import platformdirs

from metagrad.runtime.byte_sizes import format_bytes
from metagrad.runtime.tiers.background import BackgroundTier
from metagrad.runtime.tiers.errors import DamagedSlotError, SlotError
from metagrad.runtime.tiers.free_memory import disk_free, in_memory
from metagrad.runtime.tiers.slot_file import BLOCK, CHUNK, Damaged, SlotFile

_ADVICE = {
    errno.ENOSPC: "Make room there, name another directory, or use a schedule with fewer slots.",
    errno.EDQUOT: "That is this user's quota. Name another directory, or use fewer slots.",
    errno.EFBIG: "Files of this process may not be that large: raise `ulimit -f`.",
    errno.EACCES: "Name a directory that this user can write.",
    errno.EPERM: "Name a directory that this user can write.",
    errno.EROFS: "Name a directory that can be written.",
    errno.ENOENT: "Name a directory that exists.",
    errno.ENOTDIR: "Name a directory.",
}


class DiskTier(BackgroundTier):
    """Slots in a file, which is checksummed, has a fixed size, and goes away with the process."""

    name = "disk"

    def __init__(
        self,
        directory: str | os.PathLike | None = None,
        budget: int | None = None,
        *,
        free: Callable[[pathlib.Path], int] = disk_free,
        **limits,
    ):
        """
        Args:
          directory: where the file is. None is the directory for temporary files, unless that is in
              memory; then it is the user's cache folder. METAGRAD_SLOTS_DIR names another one.
          budget: the most bytes that the slots may take together; None is what is free there.
          free: says how many bytes may be written in a directory.
          limits: `pending`, `ahead` and `timeout` of `BackgroundTier`.
        """
        super().__init__(budget, **limits)
        self.directory = default_directory() if directory is None else pathlib.Path(directory)
        self._free = free
        self._file: SlotFile | None = None

    def stored_bytes(self, sizes: Sequence[int]) -> int:
        """Bytes of a slot: whole blocks."""
        return -(-super().stored_bytes(sizes) // BLOCK) * BLOCK

    @property
    def transit_bytes(self) -> int:
        """See `BackgroundTier.transit_bytes`."""
        return super().transit_bytes + min(CHUNK, self.slot_bytes)

    def reserve(self) -> None:
        wanted = self.slots * self.slot_bytes
        try:
            free = self._free(self.directory)
            if wanted > free:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._file = SlotFile(self.directory, self.slots, self.slot_bytes)
        except OSError as error:
            what = f"{self.slots} slots of {format_bytes(self.slot_bytes)} cannot be made"
            raise self._error(what, wanted, error) from error

    def store(self, slot: int, parts: list[tuple[int, np.ndarray]]) -> None:
        try:
            self._slot_file().write(slot, parts)
        except OSError as error:
            what = f"slot {slot} of the disk tier cannot be written"
            raise self._error(what, self.slot_bytes, error, " The other slots are good.") from error

    def fetch(self, slot: int, memory: np.ndarray) -> None:
        try:
            self._slot_file().read(slot, memory)
        except Damaged:
            raise DamagedSlotError(
                errno.EIO,
                f"slot {slot} of the disk tier, in a file in {self.directory}, does not have the "
                "bytes that were written to it: the disk or its driver has damaged them. Name a "
                "directory on another disk.",
            ) from None
        except OSError as error:
            what = f"slot {slot} of the disk tier cannot be read"
            raise self._error(what, self.slot_bytes, error, " The other slots are good.") from error

    def release(self) -> None:
        if self._file:
            self._file.close()
            self._file = None

    def explain_timeout(self, slot: int, verb: str) -> str:
        return (
            f"slot {slot} of the disk tier was not {verb} within {self.timeout:g} s: "
            f"{self.directory} does not answer, or is too slow for slots of "
            f"{format_bytes(self.slot_bytes)}. Name a directory on another disk, or use fewer "
            "slots there."
        )

    def _slot_file(self) -> SlotFile:
        assert self._file is not None, "the tier has slots, so it has a file"
        return self._file

    def _error(self, what: str, wanted: int, error: OSError, more: str = "") -> SlotError:
        try:
            free = f", {format_bytes(self._free(self.directory))} are free"
        except OSError:
            free = ""
        advice = _ADVICE.get(error.errno or 0, "Name a directory on another disk.")
        return SlotError(
            error.errno,
            f"{what} in {self.directory}: {error.strerror or error}. It takes "
            f"{format_bytes(wanted)}{free}. {advice}{more}",
        )


def default_directory() -> pathlib.Path:
    """Where slots on disk are, unless a directory is named: see `DiskTier`."""
    named = os.environ.get("METAGRAD_SLOTS_DIR")
    if named:
        return pathlib.Path(os.path.expanduser(named))
    temporary = pathlib.Path(tempfile.gettempdir())
    if not in_memory(temporary):
        return temporary
    cache = platformdirs.user_cache_path("metagrad", appauthor=False) / "slots"
    cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    return cache
