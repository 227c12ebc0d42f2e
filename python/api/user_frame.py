"""Finds the user's frame on the stack, where a warning points."""

from __future__ import annotations

import sys


def users_level() -> int:
    """The `stacklevel` of the first caller outside of metagrad.

    It is meant for a warning that the caller of this function raises.
    """
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("metagrad."):
        level, frame = level + 1, frame.f_back
    return level
