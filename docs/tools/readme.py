"""Parts of the README as parts of a page, so that nothing is written twice."""

from __future__ import annotations

import re
from pathlib import Path

_PLACE = re.compile(r"^<!-- README: (.+) -->$", re.MULTILINE)
_LINK = re.compile(r"\]\((?!https?:|#)([^)\s]+)\)")


def with_sections(root: Path, markdown: str) -> str:
    """A page in which `<!-- README: Heading -->` is replaced by what stands below that heading.

    "first example" names the README's first program and what it prints, "table of benchmarks" the
    table under that heading.

    Args:
      root: of the repository.
      markdown: a page that lies in docs/.

    Raises:
      ValueError: the README has no such part.
    """
    return _PLACE.sub(lambda match: _section(root, match.group(1)), markdown)


_SPECIAL = {
    "first example": r"(```python\nimport jax.*?```\n+```\n.*?```)",
    "table of benchmarks": r"^## Benchmarks\n.*?((?:^\|[^\n]*\n)+)",
}


def _section(root: Path, heading: str) -> str:
    text = (root / "README.md").read_text(encoding="utf-8")
    if heading in _SPECIAL:
        match = re.search(_SPECIAL[heading], text, re.DOTALL | re.MULTILINE)
        part = match.group(1) if match else ""
    else:
        part = _below(heading, text)
    if not part:
        raise ValueError(f"README.md has no part {heading!r}, which a page of docs/ shows")
    # The page lies in docs/, the README above it.
    return _LINK.sub(_from_docs, part.strip())


def _below(heading: str, text: str) -> str:
    """What stands between a heading and the next of its level or above."""
    lines: list[str] = []
    level, in_block = 0, False
    for line in text.splitlines():
        in_block ^= line.startswith("```")
        marks = re.match(r"(#+) ", line)
        if marks and not in_block:
            if level and len(marks.group(1)) <= level:
                break
            if not level and line[marks.end() :] == heading:
                level = len(marks.group(1))
                continue
        if level:
            lines.append(line)
    return "\n".join(lines)


def _from_docs(match: re.Match) -> str:
    """A link of the README as a page in docs/ has it."""
    path = match.group(1)
    return f"]({path.removeprefix('docs/') if path.startswith('docs/') else '../' + path})"
