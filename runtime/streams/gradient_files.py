"""Gradients of batches in a folder: one .npy file for each leaf, and an index.

    index.json      {"format": "metagrad gradients of batches", "version": 1, "steps": T,
                     "complete": true, "leaves": [{"path", "file", "shape", "dtype"}, ...],
                     "run": a random number}
    x.npy           [T, ...], for `np.load(..., mmap_mode="r")`; named after the leaf's path

The files are written with `pwrite`, not through a memory map: a full disk is then an error and not
the end of the process, and what was written does not count as this process's memory.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from metagrad.runtime.streams.layout import BatchLayout

_FORMAT = "metagrad gradients of batches"
_VERSION = 1
_INDEX = "index.json"
_LONGEST_NAME = 100


class GradientFiles:
    """The sink that writes a folder."""

    def __init__(self, folder: str | os.PathLike, layout: BatchLayout, steps: int):
        """Makes the folder and its files, or goes on with those of a run that was cut off.

        Raises:
          FileExistsError: the folder holds finished gradients, or something else.
          BlockingIOError: another run is writing to it.
          OSError: it cannot be written, or there is no room for the gradients.
        """
        self._folder, self._layout, self._steps = Path(folder), layout, steps
        self._leaves = _described_leaves(layout, steps)
        self._run = secrets.token_hex(16)
        self._is_ours = False
        self._folder.mkdir(parents=True, exist_ok=True)
        self._lock: int | None = _locked(self._folder)
        self._files: list[_RowFile] = []
        try:
            if (run := self._run_of_folder()) is None:
                self._write_index(complete=False)
                self._is_ours = True
            else:
                self._run = run
            for leaf in self._leaves:
                self._files.append(_RowFile(self._folder / leaf["file"], leaf))
        except BaseException:
            self.close()
            raise

    def arrays(self) -> list[np.ndarray]:
        """The name of the run. The rest is in the files, which are brought to the disk."""
        self._claim()
        self.flush()
        return [_as_bytes(self._run)]

    def restore(self, arrays: Sequence[np.ndarray]) -> None:
        """Goes on with the files of an earlier process.

        Raises:
          FileNotFoundError: they are not there any more, or were written to by another run.
        """
        if self._is_ours or not np.array_equal(arrays[0], _as_bytes(self._run)):
            raise FileNotFoundError(
                errno.ENOENT,
                "Stream(gradients=...): the run that goes on has written gradients to this folder, "
                "and they are not there any more. Restore the folder, or remove resume_dir to "
                "start anew",
                str(self._folder),
            )
        self._is_ours = True

    def write(self, first: int, count: int, leaves: Sequence[Any]) -> None:
        self._claim()
        for file, leaf in zip(self._files, leaves):
            file.write(first, np.asarray(leaf)[:count])

    def flush(self) -> None:
        for file in self._files:
            os.fsync(file.descriptor)

    def result(self) -> Any:
        self.flush()
        self._write_index(complete=True)
        arrays = [
            # NumPy's files have no name for bfloat16 and its like.
            np.load(self._folder / leaf["file"], mmap_mode="r").view(jnp.dtype(leaf["dtype"]))
            for leaf in self._leaves
        ]
        return self._layout.gradient(arrays, (self._steps,))

    def close(self) -> None:
        for file in self._files:
            file.close()
        self._files = []
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _claim(self) -> None:
        """Marks the folder of a run that was cut off as that of this one."""
        if not self._is_ours:
            self._run = secrets.token_hex(16)
            self._write_index(complete=False)
            self._is_ours = True

    def _run_of_folder(self) -> str | None:
        """The name of the run that was cut off in the folder; None if the folder is empty.

        Raises:
          FileExistsError: something else is in it.
        """
        names = {entry.name for entry in self._folder.iterdir()} - {f"{_INDEX}.new"}
        if not names:
            return None
        index = _read_index(self._folder / _INDEX)
        if index is None:
            raise FileExistsError(
                f"Stream(gradients=...): {self._folder} holds other files; name a new folder"
            )
        if index.get("complete"):
            raise FileExistsError(
                f"Stream(gradients=...): {self._folder} holds the gradients of an earlier run; "
                "name a new folder, or remove it"
            )
        if index | {"run": None} != self._index(complete=False) | {"run": None}:
            raise FileExistsError(
                f"Stream(gradients=...): {self._folder} holds the gradients of a run with other "
                "batches, which was cut off; name a new folder, or remove it"
            )
        return str(index.get("run"))

    def _index(self, *, complete: bool) -> dict[str, Any]:
        return {
            "format": _FORMAT,
            "version": _VERSION,
            "steps": self._steps,
            "complete": complete,
            "leaves": self._leaves,
            "run": self._run,
        }

    def _write_index(self, *, complete: bool) -> None:
        new = self._folder / f"{_INDEX}.new"
        with open(new, "w", encoding="utf-8") as file:
            json.dump(self._index(complete=complete), file, indent=2)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, self._folder / _INDEX)


def _as_bytes(run: str) -> np.ndarray:
    return np.frombuffer(run.encode(), np.uint8)


class _RowFile:
    """A .npy file whose rows are written in any order."""

    def __init__(self, path: Path, leaf: dict[str, Any]):
        dtype = jnp.dtype(leaf["dtype"])
        self._path = path
        self._row = int(np.prod(leaf["shape"][1:])) * dtype.itemsize
        self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            self._start = _write_header(path, dtype, leaf["shape"])
            _reserve(self.descriptor, self._start + leaf["shape"][0] * self._row)
        except OSError as error:
            os.close(self.descriptor)
            error.add_note(f"Stream(gradients=...): while making room in {path}")
            raise

    def write(self, first: int, rows: np.ndarray) -> None:
        remaining = memoryview(np.ascontiguousarray(rows).reshape(-1).view(np.uint8))
        position = self._start + first * self._row
        try:
            while remaining:
                written = os.pwrite(self.descriptor, remaining, position)
                remaining, position = remaining[written:], position + written
        except OSError as error:
            error.add_note(f"Stream(gradients=...): while writing batch {first} to {self._path}")
            raise

    def close(self) -> None:
        os.close(self.descriptor)


def _write_header(path: Path, dtype: np.dtype, shape: list[int]) -> int:
    """Writes the header of a .npy file and returns its length, at which the rows begin."""
    header = {
        "descr": np.lib.format.dtype_to_descr(np.empty(0, dtype).dtype),
        "fortran_order": False,
        "shape": tuple(shape),
    }
    with open(path, "r+b") as file:
        np.lib.format.write_array_header_2_0(file, header)
        return file.tell()


def _reserve(descriptor: int, size: int) -> None:
    """Makes a file as long as it will be, so that a full disk is found before the run."""
    if size == 0:
        return
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENODEV):
            raise
        os.truncate(descriptor, size)


def _locked(folder: Path) -> int:
    """A descriptor of the folder that holds a lock on it until it is closed."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise BlockingIOError(
            error.errno, f"Stream(gradients=...): another run is writing to {folder}"
        ) from None
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _read_index(path: Path) -> dict[str, Any] | None:
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return index if isinstance(index, dict) and index.get("format") == _FORMAT else None


def _described_leaves(layout: BatchLayout, steps: int) -> list[dict[str, Any]]:
    """The index's entries, with file names that say what the path says."""
    entries: list[dict[str, Any]] = []
    for leaf in layout.leaves:
        if leaf.is_float:
            entries.append(
                {
                    "path": leaf.path,
                    "file": _file_name(leaf.path, {entry["file"] for entry in entries}),
                    "shape": [steps, *leaf.stored.shape],
                    "dtype": leaf.stored.dtype.name,
                }
            )
    return entries


def _file_name(path: str, others: set[str]) -> str:
    """`batches['opt'][0].mu` -> "opt.0.mu.npy"; "batch.npy" for a batch that is one array."""
    words = re.findall(r"\w+", path.removeprefix("batches"), re.ASCII)
    stem = ".".join(words)[:_LONGEST_NAME] or "batch"
    name, count = f"{stem}.npy", 1
    while name.lower() in {other.lower() for other in others}:
        count += 1
        name = f"{stem}-{count}.npy"
    return name
