"""What the nodes of a pytree hold beside their leaves, as text that can be stored and compared.

A static field of a module (a rate of dropout, say) is a part of the program. In a process it is
compared with the structure of the tree; a file holds no objects, and so has this text.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

_PLAIN = (type(None), bool, int, float, complex, str, bytes)
_DEEPEST, _LONGEST = 8, 1000


def static_parts(structure: Any) -> list[tuple[str, str]]:
    """The class and the static part of each node that is not a dict, list, tuple or None."""
    parts, waiting = [], [structure]
    while waiting:
        node = waiting.pop()
        data = node.node_data()
        if data is not None:
            kind, static = data
            if not issubclass(kind, (dict, list, tuple, type(None))):
                parts.append((kind.__qualname__, _text(static)))
        waiting += reversed(node.children())
    return parts


def _text(static: Any) -> str:
    """Its beginning. A static part may be large, or refer to itself."""
    text, length = [], 0
    for piece in _pieces(static, 0):
        text.append(piece)
        length += len(piece)
        if length > _LONGEST:
            break
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in "".join(text)[:_LONGEST])


def _pieces(value: Any, depth: int) -> Iterator[str]:
    """Numbers and strings as they are, functions by their name, other objects by their class."""
    name = getattr(value, "__qualname__", None)
    kind = type(value)
    if depth > _DEEPEST:
        yield "..."
    elif kind in _PLAIN:
        yield repr(value)
    elif isinstance(value, (tuple, list)):
        yield "" if kind in (tuple, list) else kind.__qualname__
        yield from _enclosed(value, depth)
    elif kind is dict:
        yield from _enclosed(value.items(), depth)
    elif isinstance(name, str):
        yield name
    else:
        if dataclasses.is_dataclass(value):
            fields = [field.name for field in dataclasses.fields(value)]
        else:
            # As Equinox keeps the static fields of a module.
            slots = getattr(kind, "__slots__", ())
            fields = [slots] if isinstance(slots, str) else list(slots)
        yield kind.__qualname__
        yield from _enclosed([getattr(value, field, None) for field in fields], depth)


def _enclosed(values: Iterable[Any], depth: int) -> Iterator[str]:
    yield "("
    for i, value in enumerate(values):
        if i:
            yield ", "
        yield from _pieces(value, depth + 1)
    yield ")"
