"""Numbers of bytes as users give them, and as messages show them."""

from __future__ import annotations

import decimal
import operator
import re
from typing import Any

_UNITS = {
    "": 1,
    "b": 1,
    **{f"{prefix}b": 1000**power for power, prefix in enumerate("kmgtp", start=1)},
    **{f"{prefix}ib": 1024**power for power, prefix in enumerate("kmgtp", start=1)},
}
_TEXT = re.compile(r"\s*(\d[\d_]*(?:\.\d*)?(?:e[+-]?\d{1,3})?)\s*([a-z]*)\s*", re.IGNORECASE)
_MOST = 2**63 - 1
_FORMS = 'a number of bytes: 4_000_000_000, "4GB" (10^9 bytes each) or "4GiB" (2^30 bytes each)'


def parse_bytes(name: str, value: Any) -> int:
    """A whole number of bytes from what a user gave.

    Args:
      name: how the user writes the argument, such as "memory=". Errors begin with it.
      value: an integer; a float that is a whole number, such as 2e9; or a text: a number, and
          perhaps a unit. Units are B, kB, MB, GB, TB, PB (powers of 1000) and KiB, MiB, GiB, TiB,
          PiB (powers of 1024), in capital or small letters, with or without a space before them.
          What a fraction of a unit leaves of a byte is cut off.

    Raises:
      TypeError: the value is no number and no text. Booleans are not numbers here.
      ValueError: the text is not a number of bytes, its unit is unknown, or the number is negative,
          not finite, has a fraction of a byte, or is 2^63 or more.
    """
    if isinstance(value, str):
        return _from_text(name, value)
    if isinstance(value, bool):
        raise TypeError(f"{name} must be {_FORMS}, got {value!r}")
    try:
        return _in_range(name, operator.index(value), value)
    except TypeError:
        pass
    try:
        number = decimal.Decimal(float(value))
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be {_FORMS}, got {value!r}") from None
    if not number.is_finite() or number != number.to_integral_value():
        raise ValueError(f"{name} must be a whole number of bytes, got {value!r}")
    return _in_range(name, number, value)


def format_bytes(number: int) -> str:
    """A number of bytes for a message: "512 B", "1.50 KiB", "4.00 GiB"; three digits or four."""
    size = float(number)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        # What would be printed as 1024 of a unit is 1 of the next one.
        digits = 0 if unit == "B" else 2 if size < 10 else 1 if size < 100 else 0
        if round(abs(size), digits) < 1024:
            return f"{size:.{digits}f} {unit}"
        size /= 1024
    return f"{size:.2f} PiB"


def _from_text(name: str, text: str) -> int:
    match = _TEXT.fullmatch(text)
    if not match:
        raise ValueError(f"{name} must be {_FORMS}, got {text!r}")
    number, unit = match.groups()
    factor = _UNITS.get(unit.lower())
    if factor is None:
        raise ValueError(f"{name} has the unit {unit!r}, which is unknown.{_advice(unit)}")
    return _in_range(name, decimal.Decimal(number) * factor, text)


def _advice(unit: str) -> str:
    if unit.lower() in ("k", "m", "g", "t", "p"):
        prefix = "k" if unit.lower() == "k" else unit.upper()
        return (
            f" Write {prefix}B for powers of 1000, or {unit.upper()}iB for powers of 1024, "
            f'as in "4{prefix}B".'
        )
    return " Units are B, kB, MB, GB, TB, PB and KiB, MiB, GiB, TiB, PiB."


def _in_range(name: str, number: int | decimal.Decimal, value: Any) -> int:
    if number < 0:
        raise ValueError(f"{name} must not be negative, got {value!r}")
    if number > _MOST:
        raise ValueError(f"{name} must be less than 2^63 bytes, got {value!r}")
    return int(number)
