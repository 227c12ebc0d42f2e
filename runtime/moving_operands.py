"""A function of many operands, of which some move: those that have a tangent.

The others have none at all, which differs from a zero: zero times an infinite derivative is NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax


def filled(everything: Sequence, where: Sequence[int], values: Sequence) -> list:
    """A copy of a list with `values` at the places `where`."""
    copy = list(everything)
    for i, value in zip(where, values):
        copy[i] = value
    return copy


def push(function: Callable, primals: Sequence, tangents: Mapping[int, Any]) -> tuple[Any, Any]:
    """The results of a function, and their tangents.

    Args:
      function: of all operands.
      primals: the operands.
      tangents: of at least one of them, by index.
    """
    moving = list(tangents)
    of_moving = lambda *values: function(*filled(primals, moving, values))
    return jax.jvp(of_moving, [primals[i] for i in moving], list(tangents.values()))
