"""The user's cache folder: where what is expensive to find out is kept between processes.

METAGRAD_CACHE_DIR names the folder; without it, it is the user's cache folder of the platform.
METAGRAD_CACHE=0 switches the cache off.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pathlib
import tempfile

import platformdirs


def folder(name: str) -> pathlib.Path | None:
    """The part `name` of the cache folder; None if the cache is switched off."""
    if os.environ.get("METAGRAD_CACHE", "1").strip().lower() in ("0", "off", "false", "no"):
        return None
    named = os.environ.get("METAGRAD_CACHE_DIR")
    whole = (
        pathlib.Path(os.path.expanduser(named))
        if named
        else platformdirs.user_cache_path("metagrad", appauthor=False)
    )
    return whole / name


def key(*parts: str) -> str:
    """A digest of `parts`; no two lists of them share one."""
    digest = hashlib.sha256()
    for part in parts:
        encoded = part.encode()
        digest.update(len(encoded).to_bytes(8, "little") + encoded)
    return digest.hexdigest()


def write_file(where: pathlib.Path, name: str, content: bytes) -> None:
    """Writes a file that appears whole or not at all.

    Raises:
      OSError: the disk is full, or the folder cannot be written.
    """
    where.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, part = tempfile.mkstemp(dir=where, prefix=name, suffix=".part")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        os.replace(part, where / name)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(part)
        raise
