"""Paths of leaves in a message."""

from __future__ import annotations


def enumerate_paths(paths: list[str]) -> str:
    """The first four paths, and how many there are beyond them, for a message."""
    return ", ".join(paths[:4]) + (f" and {len(paths) - 4} more leaves" if len(paths) > 4 else "")
