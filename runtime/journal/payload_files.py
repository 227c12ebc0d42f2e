"""Files of arrays.

    b"metagrad payload 1\n"
    bytes of the header: 8, little-endian
    the header: JSON, {"arrays": [{"dtype": "bfloat16", "shape": [3, 4]}, ...]}
    each array's bytes, C order, little-endian, at the next multiple of 64
    the XXH3 checksum of all that comes before it: 16 bytes

Nothing in a file is executed, and a file is used only if its size and checksum are those that were
noted when it was written. XXH3 finds damage, not forgery. It is there for its speed: several bytes
per cycle, where SHA-256 takes longer than the disk.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import xxhash

from metagrad.runtime.journal.errors import JournalError

_NAME = re.compile(r"\d{12}\.payload")
_MAGIC = b"metagrad payload 1\n"
_ALIGNMENT = 64
_CHUNK = 1 << 22
_CHECKSUM = 16
_FLOAT0 = np.dtype([("float0", np.void, 0)])  # jax.dtypes.float0: tangents of integers


def check(arrays: Sequence[Any]) -> None:
    """Raises TypeError for an array that a file cannot hold."""
    for index, array in enumerate(arrays):
        dtype = getattr(array, "dtype", None)
        if not isinstance(dtype, np.dtype) or _dtype(_name(dtype)) != dtype:
            raise TypeError(
                f"array {index} of a payload has dtype {dtype}, and a payload holds numbers and "
                "booleans. Keys of jax.random go in as jax.random.key_data(key)."
            )


def write(
    path: pathlib.Path, arrays: Sequence[Any], proceed: Callable[[], None] = lambda: None
) -> tuple[int, str]:
    """Writes a file, and returns when it is on the disk (its entry in the folder may not be).

    The GIL is not held while bytes are copied to the host, summed and written.

    Args:
      path: a file that does not exist.
      arrays: NumPy or JAX arrays. The latter are waited for.
      proceed: called now and then; what it raises ends the writing.

    Returns:
      The file's size in bytes, and its checksum in hexadecimal.

    Raises:
      OSError: the file cannot be written. What was written of it is removed.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        checksum, size = xxhash.xxh3_128(), 0
        for part in _parts(arrays):
            for start in range(0, len(part), _CHUNK):
                proceed()
                chunk = part[start : start + _CHUNK]
                checksum.update(chunk)
                _write_all(descriptor, chunk)
            size += len(part)
        _write_all(descriptor, memoryview(checksum.digest()))
        os.fsync(descriptor)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(path)
        raise
    finally:
        os.close(descriptor)
    return size + _CHECKSUM, checksum.hexdigest()


def read(path: pathlib.Path, size: int, checksum: str) -> list[np.ndarray]:
    """The arrays of a file.

    Args:
      path: the file.
      size, checksum: what `write` returned for it.

    Raises:
      JournalError: the file is not as it was written.
      OSError: it cannot be read.
    """
    check_size(path, size)
    running = xxhash.xxh3_128()
    with open(path, "rb", buffering=0) as file:

        def take(count: int) -> np.ndarray:
            content = np.empty(count, np.uint8)
            view = memoryview(content)
            while view:
                length = file.readinto(view[:_CHUNK])
                if not length:
                    raise ValueError("it ends too early")
                running.update(view[:length])
                view = view[length:]
            return content

        try:
            arrays = _arrays(take, size)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise damaged(path, str(error)) from error
        trailer = file.read()
    if not running.hexdigest() == trailer.hex() == checksum:
        raise damaged(path, "its checksum is not that of what was written")
    return arrays


def check_size(path: pathlib.Path, size: int) -> None:
    """Raises JournalError unless the file is there and has `size` bytes."""
    try:
        actual = os.stat(path).st_size
    except FileNotFoundError:
        raise damaged(path, "it is not there") from None
    if actual != size:
        raise damaged(path, f"it has {actual} bytes, and {size} were written")


def damaged(path: pathlib.Path, why: str) -> JournalError:
    return JournalError(
        f"{path} is damaged: {why}. The run cannot go on from it. Restore the directory from a "
        f"copy, or remove {str(path.parent.parent)!r} to start anew."
    )


def _arrays(take: Callable[[int], np.ndarray], size: int) -> list[np.ndarray]:
    if take(len(_MAGIC)).tobytes() != _MAGIC:
        raise ValueError("it is not a payload of this format")
    length = int.from_bytes(take(8).tobytes(), "little")
    if length > size:
        raise ValueError("its header does not fit")
    header = json.loads(take(length).tobytes())
    position = len(_MAGIC) + 8 + length
    arrays = []
    for entry in header["arrays"]:
        dtype, shape = _dtype(entry["dtype"]), tuple(map(int, entry["shape"]))
        if dtype is None:
            raise ValueError(f"it has an unknown dtype, {entry['dtype']!r}")
        count = dtype.itemsize * int(np.prod(shape, dtype=object))
        padding = -position % _ALIGNMENT
        if count < 0 or position + padding + count > size:
            raise ValueError("its header does not fit")
        take(padding)
        content = take(count)
        arrays.append(
            content.view(dtype).reshape(shape) if dtype.itemsize else np.empty(shape, dtype)
        )
        position += padding + count
    return arrays


def _parts(arrays: Sequence[Any]) -> Iterator[memoryview]:
    """The content of a file but for the checksum, as bytes."""
    described = [{"dtype": _name(a.dtype), "shape": list(a.shape)} for a in arrays]
    header = json.dumps({"arrays": described}).encode()
    start = _MAGIC + len(header).to_bytes(8, "little") + header
    yield memoryview(start)
    position = len(start)
    for array in arrays:
        padding = -position % _ALIGNMENT
        yield memoryview(bytes(padding))
        content = np.ascontiguousarray(array)
        # Not the array's own buffer: Python's buffers know no bfloat16.
        yield memoryview(content.reshape(-1).view(np.uint8) if content.nbytes else b"")
        position += padding + content.nbytes


def _write_all(descriptor: int, content: memoryview) -> None:
    while content:
        content = content[os.write(descriptor, content) :]


def _name(dtype: np.dtype) -> str:
    return "float0" if dtype == _FLOAT0 else dtype.name


def _dtype(name: str) -> np.dtype | None:
    """The dtype of a name; None for one that a file cannot hold."""
    if name == "float0":
        return _FLOAT0
    if isinstance(getattr(ml_dtypes, name, None), type):
        return np.dtype(getattr(ml_dtypes, name))
    try:
        dtype = np.dtype(name)
    except TypeError:
        return None
    return dtype if dtype.kind in "biufc" else None


def in_folder(folder: pathlib.Path) -> list[pathlib.Path]:
    """The files of a folder that have the names of payloads; none if there is no folder."""
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    return [folder / name for name in names if _NAME.fullmatch(name)]
