"""The public names of the package, and those of its public modules as parts of a page."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from types import ModuleType

_PLACE = re.compile(r"^<!-- names of (metagrad\.[\w.]+) -->$", re.MULTILINE)


def public_names() -> list[str]:
    """Every public name, in full: those of the package, and those of its public modules."""
    package = importlib.import_module("metagrad")
    names = [f"metagrad.{name}" for name in package.__all__]
    for place in package._MODULES:
        names += names_in(f"metagrad.{place}")
    return names


def names_in(place: str) -> list[str]:
    """The public names of a module and of its public submodules, in full."""
    return [name for name, value in _members(place) if not inspect.ismodule(value)]


def with_names(markdown: str) -> str:
    """A page, with a line for each name in the place of `<!-- names of metagrad.mgd -->`."""
    return _PLACE.sub(lambda match: _lines(match.group(1)), markdown)


def _lines(place: str) -> str:
    lines = []
    level = 2
    for name, value in _members(place):
        if inspect.ismodule(value):
            level = 3  # what follows is in it
            lines.append(f"::: {name}\n    options:\n      members: false\n")
        else:
            lines.append(f"::: {name}\n    options:\n      heading_level: {level}\n")
    return "\n".join(lines)


def _members(place: str) -> Iterator[tuple[str, object]]:
    """The members of a module, modules last, each followed by its own members."""
    module = importlib.import_module(place)
    members = [(f"{place}.{name}", getattr(module, name)) for name in _names(module)]
    yield from (member for member in members if not inspect.ismodule(member[1]))
    for name, value in members:
        if inspect.ismodule(value):
            yield name, value
            yield from _members(name)


def _names(module: ModuleType) -> list[str]:
    """The names of `__all__`; without it, what the module defines, and its submodules."""
    if hasattr(module, "__all__"):
        return list(module.__all__)
    return [name for name in dir(module) if name[0] != "_" and _is_own(module, name)]


def _is_own(module: ModuleType, name: str) -> bool:
    value = getattr(module, name)
    if inspect.ismodule(value):
        return value.__name__ == f"{module.__name__}.{name}"
    return getattr(value, "__module__", None) == module.__name__
