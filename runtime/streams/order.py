"""Which rows are in which batch: an array of integers, checked before the run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

_AT_ONCE = 2**20
"""Indices that are looked at together, so that a memmap is not read into memory whole."""


def checked_order(order: Any, rows: int) -> np.ndarray:
    """The order as an array of integers [T] or [T, B]: a copy, or the memmap that was given.

    Args:
      order: as the user gave it.
      rows: how many the source has.

    Raises:
      TypeError: it does not hold integers.
      ValueError: its rank is not 1 or 2, it is empty, or an index is outside the source.
    """
    if not isinstance(order, np.ndarray):
        order = _listed(order)
    try:
        array = np.asanyarray(order)
    except ValueError:
        raise ValueError(
            "Stream(order=...) must have the shape [T] or [T, B], and its batches have different "
            "lengths. If the last one is smaller, leave it out."
        ) from None
    if array.size and array.dtype.kind not in "iu":
        raise TypeError(
            f"Stream(order=...) must hold integers, the numbers of rows, got {array.dtype}"
            + (": for a mask, give np.flatnonzero(mask)" if array.dtype == np.bool_ else "")
        )
    if array.ndim not in (1, 2):
        raise ValueError(
            f"Stream(order=...) must have the shape [T] or [T, B], got {list(array.shape)}"
        )
    if not array.size:
        raise ValueError(
            f"Stream(order=...) is empty: its shape is {list(array.shape)}, and a run has at least "
            "one step"
        )
    _check_bounds(array, rows)
    if isinstance(array, np.memmap):
        return array
    return array.astype(np.int32 if rows <= np.iinfo(np.int32).max else np.int64)


def _listed(order: Any) -> Any:
    """An order that is not an array; a sampler gives its batches one after the other.

    Raises:
      TypeError: it is an iterator, which would be used up.
    """
    if isinstance(order, Iterator):
        raise TypeError("Stream(order=...) is an iterator; give list(order), an array or a list")
    if isinstance(order, Iterable) and not hasattr(order, "__getitem__"):
        return list(order)
    return order


def _check_bounds(order: np.ndarray, rows: int) -> None:
    steps = max(1, _AT_ONCE // (order.size // len(order)))
    for first in range(0, len(order), steps):
        part = order[first : first + steps]
        outside = (part < 0) | (part >= rows)
        if outside.any():
            position = tuple(map(int, np.argwhere(outside)[0]))
            raise ValueError(_message(position[0] + first, int(part[position]), rows))


def _message(t: int, index: int, rows: int) -> str:
    message = f"Stream(order=...) names row {index} in batch {t}, and the source has {rows:,} rows"
    if index < 0:
        message += (
            ". Negative indices are refused, since they often stand for padding: write "
            f"{index + rows} for the row that NumPy would take"
            if index >= -rows
            else ". Negative indices are refused"
        )
    return message
