"""The identity of a run: what must be the same for another process to go on with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from metagrad.runtime.journal.errors import JournalError

_MOST = 60


def check_identity(directory: str, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    """Compares the identity in a directory with that of the run that would go on.

    Raises:
      JournalError: they differ; the text has each item that does, with both values.
    """
    different = [
        f"{item} is {_shown(theirs, item)} there and {_shown(ours, item)} here"
        for item in dict.fromkeys([*ours, *theirs])
        if item not in theirs or item not in ours or theirs[item] != ours[item]
    ]
    if different:
        raise JournalError(
            f"resume_dir={directory!r} holds another run: {'; '.join(different)}. To go on with "
            "that run, repeat it as it was. For a new run, name another directory, or remove this "
            "one."
        )


def _shown(identity: Mapping[str, Any], item: str) -> str:
    if item not in identity:
        return "missing"
    text = str(identity[item])
    return text if len(text) <= _MOST else f"{text[: _MOST - 3]}..."
