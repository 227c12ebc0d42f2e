"""Runs the programs of a page: its blocks of Python, in order, in one namespace."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator
from pathlib import Path

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?")

TOLERANCE = 0.02
"""Of a number that a page shows, which was computed in float32 on another machine."""


def run(page: Path) -> Iterator[tuple[str, str]]:
    """Runs the blocks, and gives what each printed beside what the page says that it prints.

    A block of Python is followed by a block of text if it prints, and by none if it does not.
    """
    source = page.read_text(encoding="utf-8")
    blocks = list(_BLOCK.finditer(source))
    names: dict[str, object] = {"__name__": "__main__"}
    for block, following in zip(blocks, [*blocks[1:], None]):
        if block.group(1) != "python":
            continue
        lines_above = source[: block.start(2)].count("\n")
        program = compile("\n" * lines_above + block.group(2), page.name, "exec")
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(program, names)
        shows = following is not None and following.group(1) == "text"
        yield printed.getvalue(), following.group(2) if shows else ""


def are_alike(printed: str, shown: str) -> bool:
    """Whether two texts are equal up to small differences of their numbers."""
    if _NUMBER.sub("#", printed) != _NUMBER.sub("#", shown):
        return False
    pairs = zip(_NUMBER.findall(printed), _NUMBER.findall(shown))
    return all(abs(float(a) - float(b)) <= TOLERANCE * abs(float(b)) for a, b in pairs)
