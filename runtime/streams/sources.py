"""A source, as a stream reads it: one of two kinds, told apart here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import jax
import numpy as np

from metagrad.runtime.schedules.arguments import MOST_STEPS
from metagrad.runtime.streams.batch_shards import Rows, first_own_row
from metagrad.runtime.streams.datasets import Batches, RowsOfDataset
from metagrad.runtime.streams.layout import BatchLayout
from metagrad.runtime.streams.order import checked_order
from metagrad.runtime.streams.refusals import check_indexable, check_source
from metagrad.runtime.streams.stacked_arrays import StackedArrays, is_array_like


class Source(Protocol):
    """What a stream reads from.

    Attributes:
      steps: T.
      reads_many: whether `read` takes many batches at once; else it is called for each.
      shape_at: where the source has a `jax.ShapeDtypeStruct` in place of an array, and cannot be
        read; None if it can.
    """

    steps: int
    reads_many: bool
    shape_at: str | None

    def layout(self) -> BatchLayout:
        """What batches look like under the present x64 setting."""

    def read(
        self,
        first: int,
        layout: BatchLayout,
        buffers: list[np.ndarray],
        rows: Sequence[Rows | None],
    ) -> None:
        """Writes the batches first, first + 1, ... into buffers [n, ...], one for each leaf.

        Where `rows` says which rows of a leaf are read, the buffer has these alone.
        """


def open_source(source: Any, order: Any, sharding: Any = None) -> Source:
    """What a user gave, as a source.

    A tuple, a dict or another pytree of arrays is stacked arrays. A list and whatever has a length
    and an index of its own is asked for its entries, one by one.

    Raises:
      TypeError, ValueError: see `Stream`.
    """
    check_source(source)
    if _is_stacked(source):
        return StackedArrays(source, order)
    check_indexable(source)
    length = _length(source)
    if order is None:
        if length > MOST_STEPS:
            raise ValueError(
                f"Stream(source): source has {length:,} entries, more than a run has steps; is it "
                "repeated without end? Take a part of it, or give an order."
            )
        return Batches(source, length)
    try:
        checked = checked_order(order, length)
        first = first_own_row(sharding, checked.shape[1]) if checked.ndim == 2 else 0
        return RowsOfDataset(source, checked, first)
    except ValueError as error:
        if isinstance(source, list):
            error.add_note(
                "A list is a sequence of rows. For a pytree of arrays that are indexed together, "
                "give a tuple or a dict of arrays."
            )
        raise


def _is_stacked(source: Any) -> bool:
    if isinstance(source, list):
        return False
    if isinstance(source, (tuple, dict)) or is_array_like(source):
        return True
    is_node = not jax.tree_util.treedef_is_leaf(jax.tree.structure(source))
    return is_node and not hasattr(source, "__getitem__")


def _length(source: Any) -> int:
    try:
        length = len(source)
    except (TypeError, NotImplementedError) as error:
        raise TypeError(
            f"Stream(source): len(source) fails for this {type(source).__name__}, and a run has a "
            f"known number of steps: {error}"
        ) from error
    if length == 0:
        raise ValueError("Stream(source): source is empty, and a run has at least one step")
    return length
