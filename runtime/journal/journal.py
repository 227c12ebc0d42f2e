"""The journal: saves points of a run, and finds the last one again."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pathlib
import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from metagrad.runtime.journal import database, directory_lock, payload_files
from metagrad.runtime.journal.errors import JournalError, reason, unusable
from metagrad.runtime.journal.identity import check_identity
from metagrad.runtime.journal.points import PayloadRef, Point, StoredPayload
from metagrad.runtime.journal.writer import Abandoned, Writer

PENDING = 1 << 30
"""Bytes of arrays that may wait to be written, unless `Journal.open` is told otherwise."""

_FOLDER = "payloads"
_OURS = {directory_lock.NAME, _FOLDER} | {
    database.NAME + suffix for suffix in ("", "-wal", "-shm", "-journal")
}
_OPEN: set[Journal] = set()


class Journal:
    """What a run saves to go on after a kill. See the package's docstring for the files.

    `store` and `commit` return at once; a thread writes. They, and all else, are for one thread at
    a time. As a context manager it closes itself: what was committed becomes durable first.

    Once something could not be written, every call raises the error, and the last point that was
    saved before it stays good.
    """

    @classmethod
    def open(
        cls, directory: str | os.PathLike, identity: Mapping[str, str | int], pending: int = PENDING
    ) -> Journal:
        """The journal in a directory: a new one, or that of a run to go on with.

        Args:
          directory: is made if it is not there. If it is, it must be empty or hold a journal.
          identity: what must be the same for a run to go on: the program's fingerprint, the number
            of steps, the data's checksum, versions, ... The items' names appear in errors.
          pending: bytes of arrays that may wait to be written. `store` waits while there are more.

        Raises:
          JournalError: the directory holds another run, something else, or damaged files; another
              process uses it; or it cannot be written.
        """
        path = pathlib.Path(directory).expanduser().absolute()
        try:
            _make(path)
            lock = directory_lock.DirectoryLock(path)
        except OSError as error:
            raise unusable(path, error) from error
        try:
            return cls(path, lock, identity, pending)
        except (OSError, sqlite3.Error) as error:
            lock.release()
            raise unusable(path, error) from error
        except BaseException:
            lock.release()
            raise

    def __init__(
        self,
        path: pathlib.Path,
        lock: directory_lock.DirectoryLock,
        identity: Mapping[str, str | int],
        pending: int,
    ):
        """Use `Journal.open`."""
        self._path, self._lock = path, lock
        self._database = database.Database(path / database.NAME)
        try:
            self._points = self._resumed(identity)
        except BaseException:
            self._database.close()
            raise
        # Written by the thread alone, once it runs.
        self._stored = {stored.ref: stored for stored in self._database.payloads()}
        self._live = set(self._stored)
        self._fresh: set[PayloadRef] = set()
        self._next = max((ref.number for ref in self._live), default=0) + 1
        self._durable = self._points[-1] if self._points else None
        self._closed = False
        self._writer = Writer(
            pending,
            f"resume_dir={str(path)!r} is on a disk that is slower than what the run saves, so the "
            "run waits for it. Name a directory on a faster one, or save less often.",
        )
        _OPEN.add(self)

    # What a run does.

    def latest(self) -> Point | None:
        """The last point that was committed; None if there is none."""
        return self._points[-1] if self._points else None

    @property
    def points(self) -> list[Point]:
        """The points that a run can go on from, the oldest first."""
        return list(self._points)

    @property
    def is_durable(self) -> bool:
        """Whether all that was committed is on the disk."""
        return self._durable is self.latest()

    def go_back(self, position: int | None) -> None:
        """Forgets the points behind one of those that there are; all of them, if it is None.

        Raises:
          ValueError: there is no point at that position.
          JournalError: something could not be written.
        """
        self.wait()
        positions = [point.position for point in self._points]
        kept = self._points[: 0 if position is None else positions.index(position) + 1]
        try:
            self._database.keep_first(len(kept))
            self._points, self._durable = kept, kept[-1] if kept else None
            referred = {ref for point in kept for ref in point.payloads.values()}
            for ref in self._live - referred:
                self._file(ref).unlink()
                del self._stored[ref]
            self._live, self._fresh = referred, set()
        except (OSError, sqlite3.Error) as error:
            raise unusable(self._path, error) from error

    def store(self, arrays: Sequence[Any]) -> PayloadRef:
        """Stores arrays, for points to refer to.

        A payload is kept while one of the two latest points refers to it, and until the second
        commit after it was stored.

        Args:
          arrays: NumPy or JAX arrays of numbers or booleans. The latter are waited for in the
            thread. Until `wait(ref)` returns, the arrays must be neither written to nor donated.

        Raises:
          TypeError: an array is of another dtype.
          JournalError: something could not be written, now or before.
        """
        arrays = list(arrays)
        payload_files.check(arrays)
        self._check()
        ref = PayloadRef(self._next)
        self._next += 1  # whatever interrupts this, the number is not used again
        self._writer.submit(lambda: self._write(ref, arrays), sum(a.nbytes for a in arrays))
        self._check()
        self._live.add(ref)
        self._fresh.add(ref)
        return ref

    def commit(
        self, position: int, record: dict[str, Any], payloads: Mapping[str, PayloadRef]
    ) -> None:
        """Saves a point. It becomes durable after its payloads and after the points before it.

        Args:
          position: how many actions of the run are done.
          record: anything that JSON can say.
          payloads: what `store` returned, or an earlier point referred to.

        Raises:
          ValueError: a payload is not kept any more, or never was.
          TypeError: JSON cannot say `record`.
          JournalError: something could not be written, now or before.
        """
        self._check()
        for name, ref in payloads.items():
            if ref not in self._live:
                raise ValueError(
                    f"payloads[{name!r}] is not in the journal: no point of the last "
                    f"{database.KEPT} refers to it"
                )
        text = json.dumps(record)
        point = Point(int(position), json.loads(text), dict(payloads))
        self._points = [*self._points, point][-database.KEPT :]
        referred = {ref for kept in self._points for ref in kept.payloads.values()}
        stale = self._live - referred - self._fresh
        self._live -= stale
        self._fresh = set()
        self._writer.submit(lambda: self._commit(point, text, stale))

    def load(self, ref: PayloadRef) -> list[np.ndarray]:
        """The arrays of a payload, in memory of their own.

        Raises:
          JournalError: its file is damaged, or cannot be read; the text names it.
          ValueError: the payload is not in the journal.
        """
        if ref not in self._live:
            raise ValueError(f"payload {ref.number} is not in the journal")
        self.wait(ref)
        stored = self._stored[ref]
        try:
            return payload_files.read(self._file(ref), stored.bytes, stored.checksum)
        except OSError as error:
            raise JournalError(f"{self._file(ref)} cannot be read: {reason(error)}") from error

    def wait(self, ref: PayloadRef | None = None) -> None:
        """Waits until the arrays of `ref` have been written, or all that there is to do is done.

        Raises:
          JournalError: something could not be written.
        """
        self._check()
        self._writer.wait(lambda: ref in self._stored)
        self._check()

    @property
    def pending(self) -> int:
        """Bytes of arrays that wait to be written.

        A run that finds many had better save a little later.
        """
        return self._writer.pending

    # The end.

    def finish(self, *, keep: bool = False) -> None:
        """The run is over: removes the journal's files, and closes it. The directory stays.

        Args:
          keep: whether the files stay, with the last points in them.

        Raises:
          JournalError: something could not be written or removed.
        """
        try:
            self.wait()
            if not keep:
                self._remove()
        finally:
            self._close()

    def close(self) -> None:
        """Writes what has been stored and committed, and lets other processes in.

        Ctrl-C meanwhile ends it at once.

        Raises:
          JournalError: something could not be written.
        """
        if not self._closed:
            self._close()
            self._raise_error()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, kind, error, traceback) -> None:
        if kind is None:
            self.close()
        else:  # `error` is what the user has to know of
            with contextlib.suppress(JournalError):
                self.close()

    def _remove(self) -> None:
        """In this order, what is left after a kill is taken for a journal that has not begun."""
        try:
            self._database.clear()
            self._sweep(set())
            os.rmdir(self._path / _FOLDER)
            self._database.close()
            os.unlink(self._path / database.NAME)
            self._lock.release(remove=True)
        except (OSError, sqlite3.Error) as error:
            raise unusable(self._path, error) from error

    def _close(self) -> None:
        self._closed = True
        _OPEN.discard(self)
        try:
            self._writer.close()
        finally:
            self._database.close()
            self._lock.release()

    # At the beginning.

    def _resumed(self, identity: Mapping[str, str | int]) -> list[Point]:
        """The points of the run that the directory holds; begins a new run if it holds none."""
        folder = self._path / _FOLDER
        if self._database.is_new and any(payload_files.in_folder(folder)):
            raise JournalError(
                f"{self._path} is damaged: {database.NAME} is empty or missing, and there are "
                f"payloads. Restore it from a copy, or remove the directory to start anew."
            )
        theirs = self._database.identity()
        if theirs:
            check_identity(str(self._path), theirs, identity)
        else:
            self._database.begin(identity)
        folder.mkdir(mode=0o700, exist_ok=True)
        payloads = self._database.payloads()
        for stored in payloads:
            payload_files.check_size(self._file(stored.ref), stored.bytes)
        self._sweep({stored.ref.file for stored in payloads})
        _sync(self._path)
        return self._database.points()

    def _sweep(self, wanted: set[str]) -> None:
        """Removes the payload files that no point refers to."""
        for file in payload_files.in_folder(self._path / _FOLDER):
            if file.name not in wanted:
                file.unlink()

    # In the thread.

    def _write(self, ref: PayloadRef, arrays: list[Any]) -> None:
        written = payload_files.write(self._file(ref), arrays, self._writer.proceed)
        self._stored[ref] = StoredPayload(ref, *written)

    def _commit(self, point: Point, record: str, stale: set[PayloadRef]) -> None:
        _sync(self._path / _FOLDER)
        payloads = [self._stored[ref] for ref in set(point.payloads.values())]
        self._database.commit(point, record, payloads)
        self._durable = point
        for ref in stale:
            os.unlink(self._file(ref))
            del self._stored[ref]

    # Errors.

    def _check(self) -> None:
        if self._closed:
            raise ValueError("the journal is closed")
        self._raise_error()

    def _raise_error(self) -> None:
        error = self._writer.error
        if error is None or isinstance(error, Abandoned):
            return
        if not isinstance(error, (OSError, sqlite3.Error)):
            raise error
        last = (
            f"The point at action {self._durable.position} is saved, and a run goes on from there"
            if self._durable
            else "Nothing was saved"
        )
        raise JournalError(
            f"resume_dir={str(self._path)!r} cannot be written: {reason(error)}. {last}."
        ) from error

    def _file(self, ref: PayloadRef) -> pathlib.Path:
        return self._path / _FOLDER / ref.file

    def _leave_to_parent(self) -> None:
        self._closed = True
        self._database.leave_to_parent()
        self._lock.leave_to_parent()


def _make(path: pathlib.Path) -> None:
    """Makes the directory.

    Raises:
      JournalError: it is there, and holds something else than a journal.
      OSError: it cannot be made or read.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not os.access(path, os.W_OK | os.X_OK, effective_ids=True):  # SQLite would say less
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    names = set(os.listdir(path))
    if names - _OURS and database.NAME not in names:
        raise JournalError(
            f"resume_dir={str(path)!r} holds something else: {sorted(names - _OURS)[0]!r}. Name a "
            "directory that is empty or not there yet."
        )


def _sync(folder: pathlib.Path) -> None:
    """Puts the entries of a folder on the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _leave_all_to_parent() -> None:
    """For a forked process: a data loader's worker, say, that may outlive the run."""
    for journal in _OPEN:
        journal._leave_to_parent()


os.register_at_fork(after_in_child=_leave_all_to_parent)
