"""The file of an exported run: a manifest in JSON and payloads of bytes, each with its SHA-256.

    offset  bytes
    0       8      the magic, b"\\x93MGRAD\\r\\n"
    8       4      the format, an unsigned little-endian integer
    12      8      the manifest's length n, likewise
    20      32     the manifest's SHA-256
    52      n      the manifest, UTF-8
    ...            the payloads, in the manifest's order, each from a multiple of 64 on

Gaps are zeros, and the file ends with its last payload.

Nothing is compressed and there are no offsets or file names, so a file cannot ask for more memory
than it has bytes, have two payloads overlap, or name a place outside of it. A payload starts where
XLA takes a host array as it is, so that arrays are read once and not copied.

The sums find damage. They do not say who wrote a file: whoever alters it can write new sums.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import io
import json
import os
import secrets
import stat
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

FORMAT = 1
MAGIC = b"\x93MGRAD\r\n"
LARGEST_MANIFEST = 64 * 2**20
"""Bytes. A leaf takes about a hundred."""

_HEADER = struct.Struct("<8sIQ32s")
_ALIGNMENT = 64


_LONGEST_REASON = 2000


class InvalidFile(ValueError):
    """A file is not an exported run that this version of metagrad can load. Says what is wrong."""

    def __init__(self, path: os.PathLike | str, reason: str):
        if len(reason) > _LONGEST_REASON:
            reason = reason[:_LONGEST_REASON] + " ..."
        # It may quote the file, which must not write escape sequences to a terminal.
        shown = "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in reason)
        super().__init__(f"{os.fspath(path)} cannot be loaded: {shown}")


@dataclasses.dataclass(frozen=True)
class Container:
    """What a file holds, with all sums checked.

    Attributes:
      path: of the file.
      contents: the manifest's own part, not looked at any further.
      payloads: bytes by name, read-only.
      bytes: the file's size.
    """

    path: Path
    contents: Any
    payloads: Mapping[str, np.ndarray]
    bytes: int


def write(
    path: os.PathLike | str,
    contents: Any,
    payloads: Mapping[str, Any],
    *,
    overwrite: bool = False,
) -> int:
    """Writes a file, whole or not at all. Returns its size in bytes.

    It is written beside its place, brought to the disk and then renamed.

    Args:
      path: of the file.
      contents: what `json.dumps` takes.
      payloads: objects with the buffer protocol (bytes, contiguous arrays), by name. They are not
        copied.
      overwrite: whether a file that is there is replaced.

    Raises:
      FileExistsError: there is one, and `overwrite` is not set.
      OSError: the file cannot be written.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} is there already; export(..., overwrite=True) replaces it")
    buffers = {name: memoryview(data).cast("B") for name, data in payloads.items()}
    described = [
        {"name": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for name, data in buffers.items()
    ]
    manifest = json.dumps({"payloads": described, "contents": contents}, allow_nan=False).encode()
    if len(manifest) > LARGEST_MANIFEST:
        raise ValueError(
            f"the manifest of {path} would have {len(manifest):,} bytes, and at most "
            f"{LARGEST_MANIFEST:,} are read back: there are too many leaves"
        )
    header = _HEADER.pack(MAGIC, FORMAT, len(manifest), hashlib.sha256(manifest).digest())
    with _replacing(path) as file:
        file.write(header + manifest)
        for data in buffers.values():
            file.write(bytes(_gap(file.tell())))
            file.write(data)
        return file.tell()


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write to, which takes the place of the one at `path` when all is on the disk."""
    beside = path.with_name(f".{secrets.token_hex(8)}.export")
    try:
        with open(beside, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        # It names the file that the user named.
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        beside.unlink(missing_ok=True)


def read(path: os.PathLike | str) -> Container:
    """Reads a file and checks it: format, sizes, sums.

    Raises:
      InvalidFile: it is not such a file, truncated, altered, or of a newer format.
      OSError: it cannot be read.
    """
    path = Path(path)
    # A pipe would wait for a writer.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise InvalidFile(path, "it is not a regular file")
    with open(descriptor, "rb") as file:
        size = status.st_size
        manifest = _read_manifest(path, file, size)
        described = _described(path, manifest)
        memory = _read_payloads(path, file, size, described)
    for name, (start, stop, digest) in described.items():
        if hashlib.sha256(memory[start:stop]).hexdigest() != digest:
            raise InvalidFile(path, f"the payload {name!r} does not have its SHA-256: altered")
    payloads = {name: memory[start:stop] for name, (start, stop, _) in described.items()}
    return Container(path, manifest["contents"], payloads, size)


def _read_manifest(path: Path, file: io.BufferedReader, size: int) -> dict:
    header = file.read(_HEADER.size)
    if header[: len(MAGIC)] != MAGIC:
        raise InvalidFile(path, "it is not a file that compiled.export wrote")
    if len(header) < _HEADER.size:
        raise InvalidFile(path, f"it is truncated: {size} bytes, less than a header")
    _, form, length, digest = _HEADER.unpack(header)
    if form != FORMAT:
        raise InvalidFile(
            path,
            f"it is of format {form}, and this metagrad reads format {FORMAT}: "
            "load it with the version that wrote it, or a newer one",
        )
    if length > LARGEST_MANIFEST:
        raise InvalidFile(
            path, f"its manifest would have {length:,} bytes, more than {LARGEST_MANIFEST:,}"
        )
    text = file.read(length)
    if len(text) < length:
        raise InvalidFile(path, f"it is truncated: it ends within the manifest, at byte {size:,}")
    if hashlib.sha256(text).digest() != digest:
        raise InvalidFile(path, "the manifest does not have its SHA-256: altered")
    try:
        manifest = json.loads(text.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
    except RecursionError:
        raise InvalidFile(path, "its manifest is nested too deeply") from None
    except ValueError as error:
        raise InvalidFile(path, f"its manifest is not JSON: {error}") from None
    if not isinstance(manifest, dict) or set(manifest) != {"payloads", "contents"}:
        raise InvalidFile(path, "its manifest has not the keys 'payloads' and 'contents'")
    return manifest


def _unique(pairs: list[tuple[str, Any]]) -> dict:
    result = dict(pairs)
    if len(result) < len(pairs):
        raise ValueError("a key stands twice")
    return result


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _described(path: Path, manifest: dict) -> dict[str, tuple[int, int, str]]:
    """Where each payload lies behind the manifest, and its sum."""
    payloads: dict[str, tuple[int, int, str]] = {}
    if not isinstance(manifest["payloads"], list):
        raise InvalidFile(path, "its list of payloads is not a list")
    end = 0
    for entry in manifest["payloads"]:
        if not isinstance(entry, dict) or set(entry) != {"name", "bytes", "sha256"}:
            raise InvalidFile(path, "a payload has not the keys 'name', 'bytes' and 'sha256'")
        name, size, digest = entry["name"], entry["bytes"], entry["sha256"]
        if not isinstance(name, str) or not isinstance(digest, str) or name in payloads:
            raise InvalidFile(path, f"the payload {name!r} has no name of its own or no sum")
        if type(size) is not int or size < 0:
            raise InvalidFile(path, f"the payload {name!r} has {size!r} bytes")
        # Relative to the first payload, which starts at a multiple of the alignment.
        start = end + _gap(end)
        end = start + size
        payloads[name] = start, end, digest
    return payloads


def _read_payloads(path: Path, file: io.BufferedReader, size: int, described: dict) -> np.ndarray:
    """The rest of the file, in memory that starts at a multiple of the alignment."""
    end = max((stop for _, stop, _ in described.values()), default=0)
    position = file.tell()
    first = position + (_gap(position) if described else 0)
    if first + end != size:
        kind = "truncated" if size < first + end else "longer than it says"
        raise InvalidFile(path, f"it is {kind}: {size:,} bytes, not {first + end:,}")
    space = np.empty(end + _ALIGNMENT, np.uint8)
    start = -space.ctypes.data % _ALIGNMENT
    memory = space[start : start + end]
    if any(file.read(first - position)):
        raise InvalidFile(path, "there are bytes between its payloads: altered")
    filled = file.readinto(memory)
    if filled != end:
        raise InvalidFile(path, f"it became shorter while it was read: {filled:,} of {end:,} bytes")
    last = 0
    for begin, stop, _ in described.values():
        if memory[last:begin].any():
            raise InvalidFile(path, "there are bytes between its payloads: altered")
        last = stop
    memory.flags.writeable = False
    return memory


def _gap(position: int) -> int:
    """Bytes up to the next multiple of the alignment."""
    return -position % _ALIGNMENT
