"""The lock that keeps two processes from one directory.

It is `flock` on a file, which the kernel releases when the process dies, however it dies. The file
says who holds it, for the error that the second process gets.
"""

from __future__ import annotations

import datetime
import errno
import fcntl
import json
import os
import pathlib
import socket

from metagrad.runtime.journal.errors import JournalError, reason

NAME = "lock"


class DirectoryLock:
    """Held from its construction until `release`.

    Raises:
      JournalError: another process (or another journal of this one) holds it, or the file system
          has no locks.
      OSError: the file cannot be opened or written.
    """

    def __init__(self, directory: pathlib.Path):
        self._path = directory / NAME
        self._descriptor: int | None = _locked(self._path)
        owner = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": datetime.datetime.now().astimezone().isoformat(" ", "seconds"),
        }
        try:
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, json.dumps(owner).encode(), 0)
        except OSError:
            self.release()
            raise

    def release(self, *, remove: bool = False) -> None:
        """Lets others in.

        Args:
          remove: whether the file goes too.
        """
        if self._descriptor is None:
            return
        if remove:  # before the lock goes: `_locked` sees that the file is no longer there
            self._path.unlink(missing_ok=True)
        os.close(self._descriptor)
        self._descriptor = None

    def leave_to_parent(self) -> None:
        """Closes the copy that a forked process has, which would otherwise outlive its parent."""
        self.release()


def _locked(path: pathlib.Path) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The file may have been removed by its owner between the two calls.
            if _is_at(descriptor, path):
                return descriptor
        except BlockingIOError:
            owner = _owner(descriptor)
            os.close(descriptor)
            raise JournalError(
                f"resume_dir={str(path.parent)!r} is in use by {owner}. Wait for it to end, or "
                "name another directory."
            ) from None
        except OSError as error:
            os.close(descriptor)
            if error.errno in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                raise JournalError(
                    f"the file system of resume_dir={str(path.parent)!r} has no file locks "
                    f"({reason(error)}). Name a directory on another one."
                ) from error
            raise
        os.close(descriptor)


def _is_at(descriptor: int, path: pathlib.Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _owner(descriptor: int) -> str:
    try:
        owner = json.loads(os.pread(descriptor, 4096, 0))
        return f"process {owner['pid']} on {owner['host']}, since {owner['since']}"
    except (OSError, ValueError, KeyError, TypeError):  # it has not written this yet
        return "another process"
