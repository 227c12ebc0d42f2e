"""Reads JSON that anybody may have written: each value is of the kind asked for, or refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


class Fields:
    """A JSON object, with the place where it stands for messages.

    All methods raise ValueError if the field is absent or of another kind; the message names it.
    """

    def __init__(self, value: Any, place: str):
        if not isinstance(value, dict):
            raise ValueError(f"{place} is not a JSON object")
        self._value, self.place = value, place

    def __contains__(self, name: str) -> bool:
        return name in self._value

    def __iter__(self) -> Iterator[str]:
        return iter(self._value)

    def any(self, name: str) -> Any:
        if name not in self._value:
            raise ValueError(f"{self.place} has no {name!r}")
        return self._value[name]

    def _of(self, name: str, kind: type, words: str) -> Any:
        value = self.any(name)
        if type(value) is not kind:
            raise ValueError(f"{self._of_field(name)} is not {words}")
        return value

    def _of_field(self, name: str) -> str:
        return f"{self.place}.{name}"

    def text(self, name: str) -> str:
        """A string that can be shown: it has no escape sequences for a terminal."""
        value = self.any_text(name)
        if not value.isprintable():
            raise ValueError(f"{self._of_field(name)} has characters that cannot be shown")
        return value

    def any_text(self, name: str) -> str:
        return self._of(name, str, "a string")

    def flag(self, name: str) -> bool:
        return self._of(name, bool, "true or false")

    def integer(self, name: str, least: int = 0) -> int:
        value = self._of(name, int, "an integer")
        if value < least:
            raise ValueError(f"{self._of_field(name)} is {value}, below {least}")
        return value

    def sequence(self, name: str) -> list:
        return self._of(name, list, "a list")

    def texts(self, name: str) -> tuple[str, ...]:
        values = self.sequence(name)
        if not all(type(value) is str and value.isprintable() for value in values):
            raise ValueError(f"{self._of_field(name)} is not a list of strings that can be shown")
        return tuple(values)

    def object(self, name: str) -> Fields:
        return Fields(self.any(name), self._of_field(name))

    def objects(self, name: str) -> list[Fields]:
        return [
            Fields(value, f"{self._of_field(name)}[{i}]")
            for i, value in enumerate(self.sequence(name))
        ]
