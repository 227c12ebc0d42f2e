"""Puts tables of results into a page, between two comments that name the place."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def with_table(text: str, place: str, lines: Sequence[str], page: Path) -> str:
    """The text of `page`, with the lines between `<!-- place -->` and `<!-- end of place -->`.

    Raises:
      ValueError: the page has no such place.
    """
    start, end = f"<!-- {place} -->", f"<!-- end of {place} -->"
    before, found, rest = text.partition(start)
    _, also_found, after = rest.partition(end)
    if not (found and also_found):
        raise ValueError(f"{page} has no {start} ... {end}")
    return "\n".join([before + start, *lines, end + after])
