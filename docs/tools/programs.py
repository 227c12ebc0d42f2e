"""Sections of a program in docs/ as blocks of a page, so that what is shown is what runs."""

from __future__ import annotations

import re
from pathlib import Path

_PLACE = re.compile(r"^<!-- (.+): (\S+\.py) (\w+) -->$", re.MULTILINE)


def with_programs(docs: Path, markdown: str) -> str:
    """A page in which `<!-- Title: file.py section -->` is replaced by a block with that section.

    A section begins at a line `# --- section ---`, and ends at the next such line or with the file.

    Args:
      docs: the folder of the pages, in which the program is.
      markdown: a page.

    Raises:
      ValueError: the program has no such section.
    """

    def block(match: re.Match) -> str:
        title, name, section = match.groups()
        text = (docs / name).read_text(encoding="utf-8")
        parts = re.split(r"^# --- (\w+) ---\n", text, flags=re.MULTILINE)
        sections = dict(zip(parts[1::2], parts[2::2]))
        if section not in sections:
            raise ValueError(f"{name} has no section {section!r}, which a page of docs/ shows")
        return f'```python title="{title}"\n{sections[section].strip()}\n```'

    return _PLACE.sub(block, markdown)
