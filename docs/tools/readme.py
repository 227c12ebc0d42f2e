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
    pattern = _SPECIAL.get(heading, rf"^#+ {re.escape(heading)}\n(.*?)(?=^#{{1,2}} |\Z)")
    match = re.search(pattern, text, re.DOTALL | re.MULTILINE)
    if match is None:
        raise ValueError(f"README.md has no part {heading!r}, which a page of docs/ shows")
    return _LINK.sub(_from_docs, match.group(1).strip())


def _from_docs(match: re.Match) -> str:
    """A link of the README as a page in docs/ has it."""
    path = match.group(1)
    return f"]({path.removeprefix('docs/') if path.startswith('docs/') else '../' + path})"
