"""Docstrings as Markdown that means what they say."""

from __future__ import annotations

import re
from typing import Any

import griffe

_SESSION = re.compile(r"^( *)>>> .*\n(?:\1\S.*\n?)*", re.MULTILINE)
_CODE = re.compile(r"(```.*?```|`[^`\n]*`)", re.DOTALL)


class PlainText(griffe.Extension):
    """Fences the doctests of every docstring, and escapes what is no link.

    Markdown takes `>>>` for a quotation, and meta["a"]["b"] for a reference.
    """

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring is not None:
            text = _SESSION.sub(_fenced, obj.docstring.value)
            parts = _CODE.split(text)
            parts[::2] = [part.replace("][", "]\\[") for part in parts[::2]]
            obj.docstring.value = "".join(parts)


def _fenced(match: re.Match) -> str:
    indent = match.group(1)
    return f"{indent}```pycon\n{match.group(0).rstrip()}\n{indent}```\n"
