"""The compilation cache: texts on disk under the digest of all that they depend on.

What Enzyme makes of a module depends on the module's text, the pipeline and the library alone, so
the second compilation of a step finds it here, in this process or in another, and needs no Enzyme.
The text that goes into a key is printed without source locations: moving a function in its file
changes nothing.

An entry is believed only if the digest in it fits its key and its content; anything else (cut
short, another file's content, unreadable) is a miss, and the next `store` writes over it. Entries
appear by an atomic rename, so several processes may share the folder. The least recently used go
first when the folder grows beyond LIMIT.

Where the folder is, and how the cache is switched off: runtime/user_cache.py.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pathlib
import re
import warnings
import zlib

from metagrad.runtime import user_cache
from metagrad.runtime.user_cache import key

__all__ = ["LIMIT", "folder", "key", "load", "size", "store"]

LIMIT = 2**28
"""Bytes that the entries may take together.

Those of one metagradient of a 4-layer GPT take 0.35 MiB.
"""

_FORMAT = b"metagrad cache 1\n"
_ENTRY = re.compile(r"[0-9a-f]{64}(\w+\.part)?")


def folder() -> pathlib.Path | None:
    """Where the entries are; None if the cache is switched off."""
    return user_cache.folder("enzyme")


def size() -> tuple[int, int]:
    """How many entries there are, and how many bytes they take together."""
    where = folder()
    if where is None:
        return 0, 0
    try:
        sizes = [file.stat().st_size for file in os.scandir(where) if _ENTRY.fullmatch(file.name)]
    except OSError:
        return 0, 0
    return len(sizes), sum(sizes)


def load(key: str) -> str | None:
    """The text that was stored under `key`, or None: there is none, or it is damaged."""
    where = folder()
    if where is None:
        return None
    try:
        entry = (where / key).read_bytes()
        packed = entry[len(_FORMAT) + 32 :]
        if entry != _entry(key, packed):
            return None
        text = zlib.decompress(packed).decode()
    except (OSError, ValueError, zlib.error):
        return None
    with contextlib.suppress(OSError):
        # Used now: others go first.
        os.utime(where / key)
    return text


def store(key: str, text: str) -> None:
    """Stores `text` under `key`.

    Where that is not possible (a full disk, a folder that cannot be written) there is a warning and
    no entry.
    """
    where = folder()
    if where is None:
        return
    try:
        user_cache.write_file(where, key, _entry(key, zlib.compress(text.encode(), 1)))
        _evict(where)
    except OSError as error:
        warnings.warn(
            f"metagrad's cache in {where} cannot be written ({error.strerror or error}), so the "
            "next compilation takes as long as this one. Name another folder in "
            "METAGRAD_CACHE_DIR, or switch the cache off with METAGRAD_CACHE=0.",
            RuntimeWarning,
            stacklevel=2,
        )


def _entry(key: str, packed: bytes) -> bytes:
    return _FORMAT + hashlib.sha256(key.encode() + packed).digest() + packed


def _evict(where: pathlib.Path) -> None:
    """Removes the least recently used entries until those left fit.

    Other files in the folder are left alone.
    """
    entries = []
    for file in os.scandir(where):
        if _ENTRY.fullmatch(file.name):
            with contextlib.suppress(OSError):
                entries.append((file.stat().st_mtime_ns, file.stat().st_size, file.path))
    excess = sum(size for _, size, _ in entries) - LIMIT
    for _, size, path in sorted(entries):
        if excess <= 0:
            return
        with contextlib.suppress(OSError):
            os.unlink(path)
        excess -= size
