"""The error of a journal."""

from __future__ import annotations

import errno
import os
import pathlib
import sqlite3


class JournalError(RuntimeError):
    """The directory named by `resume_dir` cannot be used. The text says why, and what to do."""


def reason(error: OSError | sqlite3.Error) -> str:
    """Why an operation on files failed, in a few words."""
    if isinstance(error, OSError) and error.errno is not None:
        text = os.strerror(error.errno)
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            text += ": make room, or allow more"
        return text
    return str(error) or type(error).__name__


def unusable(path: pathlib.Path, error: OSError | sqlite3.Error) -> JournalError:
    """The error for a directory that cannot be read or written."""
    return JournalError(
        f"resume_dir={str(path)!r} cannot be used: {reason(error)}. Name a directory that this "
        "process can write."
    )
