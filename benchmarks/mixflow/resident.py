"""The peak of a process's resident memory during a call, on Linux."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

Result = TypeVar("Result")

_PROCESS = Path("/proc/self")

_MMAP_THRESHOLD = -3
"""M_MMAP_THRESHOLD of <malloc.h>: what is larger is mapped."""

_SMALL = 64 * 2**10
_LARGEST = 32 * 2**20
"""Where the GNU C library's threshold ends up by itself, in a process that frees large arrays."""


def peak_of(call: Callable[[], Result]) -> tuple[Result, int | None]:
    """The call's result, and the bytes that were resident at most, above those before it.

    The allocator keeps some of what was freed before, and the call would take it unseen. So it is
    given back first, and during the call all but small arrays are mapped, and unmapped when freed.
    None where the kernel does not let a process reset its peak.
    """
    c_library = ctypes.CDLL(None)
    c_library.malloc_trim(0)
    c_library.mallopt(_MMAP_THRESHOLD, _SMALL)
    try:
        (_PROCESS / "clear_refs").write_text("5")
    except OSError:
        return call(), None
    else:
        before = _field("VmRSS")
        result = call()
        return result, _field("VmHWM") - before
    finally:
        c_library.mallopt(_MMAP_THRESHOLD, _LARGEST)


def _field(name: str) -> int:
    """A line of /proc/self/status that is in kB, in bytes."""
    for line in (_PROCESS / "status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"/proc/self/status has no {name}")
