"""Examples with prompts in docstrings become sessions. Markdown takes `>>>` for a quotation."""

from __future__ import annotations

import re
from typing import Any

import griffe

_SESSION = re.compile(r"^( *)>>> .*\n(?:\1\S.*\n?)*", re.MULTILINE)


class Sessions(griffe.Extension):
    """Fences the doctests of every docstring."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = _SESSION.sub(_fenced, obj.docstring.value)


def _fenced(match: re.Match) -> str:
    indent = match.group(1)
    return f"{indent}```pycon\n{match.group(0).rstrip()}\n{indent}```\n"
