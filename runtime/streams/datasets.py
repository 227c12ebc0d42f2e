"""Sources that are asked for one entry at a time: a sequence of batches, a map-style dataset."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from metagrad.runtime.streams.layout import BatchLayout, layout_of, raw_avals


class Batches:
    """Batch t is source[t]."""

    reads_many = False

    def __init__(self, source: Any, steps: int):
        self._source = source
        self.steps = steps
        self._raw: Any = None

    def layout(self) -> BatchLayout:
        if self._raw is None:
            batch = _asked(functools.partial(operator.getitem, self._source, 0), 0)
            self._raw = raw_avals(batch, "batch 0 of the stream")
        return layout_of(self._raw)

    def read(self, first: int, layout: BatchLayout, buffers: list[np.ndarray]) -> None:
        for offset in range(len(buffers[0])):
            t = first + offset
            batch = _asked(functools.partial(operator.getitem, self._source, t), t)
            for buffer, array in zip(buffers, layout.arrays(batch, f"batch {t} of the stream")):
                np.copyto(buffer[offset, ...], array, casting="unsafe")


class RowsOfDataset:
    """Batch t is the rows order[t] of a dataset, stacked; with an order [T], the row order[t].

    A dataset that answers for several rows at once (`__getitems__`, as PyTorch asks and Hugging
    Face has it) is asked so, the others row by row.
    """

    reads_many = False

    def __init__(self, source: Any, order: np.ndarray):
        self._source = source
        self._order = order
        self.steps = len(order)
        self._raw: Any = None
        several = getattr(source, "__getitems__", None)
        self._rows: Callable[[list[int]], Any] = (
            several if callable(several) else lambda rows: [source[row] for row in rows]
        )

    def layout(self) -> BatchLayout:
        if self._raw is None:
            row = self._asked(0)[0]
            self._raw = raw_avals(row, f"row {self._indices(0)[0]} of the source")
        return layout_of(self._raw, self._order.shape[1:])

    def read(self, first: int, layout: BatchLayout, buffers: list[np.ndarray]) -> None:
        of_row = layout.without_leading(self._order.ndim - 1)
        for offset in range(len(buffers[0])):
            t = first + offset
            # One place for each row, also for an order [T].
            places = [
                buffer[offset : offset + 1].reshape(-1, *leaf.stored.shape)
                for buffer, leaf in zip(buffers, of_row.leaves)
            ]
            for position, (row, index) in enumerate(zip(self._asked(t), self._indices(t))):
                name = f"row {index} of the source, in batch {t},"
                for place, array in zip(places, of_row.arrays(row, name)):
                    np.copyto(place[position, ...], array, casting="unsafe")

    def _indices(self, t: int) -> list[int]:
        return self._order[t].reshape(-1).tolist()

    def _asked(self, t: int) -> list:
        indices = self._indices(t)
        rows = _asked(lambda: list(self._rows(indices)), t)
        if len(rows) != len(indices):
            raise ValueError(
                f"the source was asked for {len(indices)} rows of batch {t}, and gave {len(rows)}"
            )
        return rows


def _asked(ask: Callable[[], Any], t: int) -> Any:
    """What the source answers. Its own error passes through, with a note that names the batch."""
    try:
        return ask()
    except Exception as error:
        error.add_note(f"batch {t} of the stream")
        raise
