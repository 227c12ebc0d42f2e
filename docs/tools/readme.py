"""Parts of the README as parts of a page, so that nothing is written twice."""

from __future__ import annotations

import re
from pathlib import Path

_PLACE = re.compile(r"^<!-- README: (.+) -->$", re.MULTILINE)
_LINK = re.compile(r"\]\((?!https?:|#)([^)\s]+)\)")


def with_sections(root: Path, markdown: str) -> str:
    """A page in which `<!-- README: Heading -->` is replaced by what stands below that heading.

    "first example" names the README's first program and what it prints.

    Args:
      root: of the repository.
      markdown: a page that lies in docs/.

    Raises:
      ValueError: the README has no such part.
    """
    return _PLACE.sub(lambda match: _section(root, match.group(1)), markdown)


def _section(root: Path, heading: str) -> str:
    text = (root / "README.md").read_text(encoding="utf-8")
    pattern = (
        r"(```python\nimport jax.*?```\n+```\n.*?```)"
        if heading == "first example"
        else rf"^#+ {re.escape(heading)}\n(.*?)(?=^#{{1,2}} |\Z)"
    )
    match = re.search(pattern, text, re.DOTALL | re.MULTILINE)
    if match is None:
        raise ValueError(f"README.md has no part {heading!r}, which a page of docs/ shows")
    # The page lies in docs/, the README above it.
    return _LINK.sub(r"](../\1)", match.group(1).strip())
