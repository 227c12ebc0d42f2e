"""Text that a notebook shows with its columns and line breaks."""

from __future__ import annotations

import html


class Text(str):
    """A `str` that a notebook displays as it is printed."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        return preformatted(self)


def preformatted(text: str) -> str:
    """The text as HTML, in a font whose characters have one width."""
    return f'<pre style="line-height: 1.2">{html.escape(text)}</pre>'
