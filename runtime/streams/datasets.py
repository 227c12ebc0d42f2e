"""Sources that are asked for one entry at a time: a sequence of batches, a map-style dataset."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from metagrad.runtime.streams.batch_shards import Rows
from metagrad.runtime.streams.layout import BatchLayout, layout_of, raw_avals


class Batches:
    """Batch t is source[t]."""

    reads_many = False
    shape_at: str | None = None

    def __init__(self, source: Any, steps: int):
        self._source = source
        self.steps = steps
        self._raw: Any = None

    def layout(self) -> BatchLayout:
        if self._raw is None:
            batch = _asked(functools.partial(operator.getitem, self._source, 0), 0)
            self._raw = raw_avals(batch, "batch 0 of the stream")
        return layout_of(self._raw)

    def read(
        self,
        first: int,
        layout: BatchLayout,
        buffers: list[np.ndarray],
        rows: Sequence[Rows | None],
    ) -> None:
        for offset in range(len(buffers[0])):
            t = first + offset
            batch = _asked(functools.partial(operator.getitem, self._source, t), t)
            arrays = layout.arrays(batch, f"batch {t} of the stream")
            _copy_own_rows(arrays, [buffer[offset, ...] for buffer in buffers], rows)


class RowsOfDataset:
    """Batch t is the rows order[t] of a dataset, stacked; with an order [T], the row order[t].

    A dataset that answers for several rows at once (`__getitems__`, as PyTorch asks and Hugging
    Face has it) is asked so, the others row by row.
    """

    reads_many = False
    shape_at: str | None = None

    def __init__(self, source: Any, order: np.ndarray, first: int = 0):
        """
        Args:
          first: the position in batch 0 of the row that is asked for what rows look like.
        """
        self._source = source
        self._order = order
        self._first = first
        self.steps = len(order)
        self._raw: Any = None
        several = getattr(source, "__getitems__", None)
        self._rows: Callable[[list[int]], Any] = (
            several if callable(several) else lambda rows: [source[row] for row in rows]
        )

    def layout(self) -> BatchLayout:
        if self._raw is None:
            index = self._indices(0)[self._first]
            (row,) = self._asked(0, [index])
            self._raw = raw_avals(row, f"row {index} of the source")
        return layout_of(self._raw, self._order.shape[1:])

    def read(
        self,
        first: int,
        layout: BatchLayout,
        buffers: list[np.ndarray],
        rows: Sequence[Rows | None],
    ) -> None:
        for offset in range(len(buffers[0])):
            t = first + offset
            into = [buffer[offset, ...] for buffer in buffers]
            if self._order.ndim == 1:
                self._read_row(t, layout, into, rows)
            else:
                self._read_rows(t, layout.without_leading(1), into, rows)

    def _read_row(
        self, t: int, layout: BatchLayout, into: list[np.ndarray], rows: Sequence[Rows | None]
    ) -> None:
        """A batch that is one row of the source."""
        (index,) = self._indices(t)
        (row,) = self._asked(t, [index])
        _copy_own_rows(layout.arrays(row, _name(index, t)), into, rows)

    def _read_rows(
        self, t: int, of_row: BatchLayout, into: list[np.ndarray], rows: Sequence[Rows | None]
    ) -> None:
        """A batch of several rows of the source. Only those that are read are asked for."""
        indices = self._indices(t)
        everywhere = range(len(indices))
        read = [everywhere if own is None else own.tolist() for own in rows]
        asked = sorted(set().union(*read))
        places = [dict(zip(own, range(len(own)))) for own in read]
        answers = self._asked(t, [indices[position] for position in asked])
        for position, row in zip(asked, answers):
            for out, place, array in zip(
                into, places, of_row.arrays(row, _name(indices[position], t))
            ):
                if position in place:
                    np.copyto(out[place[position], ...], array, casting="unsafe")

    def _indices(self, t: int) -> list[int]:
        return self._order[t].reshape(-1).tolist()

    def _asked(self, t: int, indices: list[int]) -> list:
        rows = _asked(lambda: list(self._rows(indices)), t)
        if len(rows) != len(indices):
            raise ValueError(
                f"the source was asked for {len(indices)} rows of batch {t}, and gave {len(rows)}"
            )
        return rows


def _name(index: int, t: int) -> str:
    return f"row {index} of the source, in batch {t},"


def _copy_own_rows(
    arrays: Sequence[np.ndarray], into: Sequence[np.ndarray], rows: Sequence[Rows | None]
) -> None:
    for array, out, own in zip(arrays, into, rows):
        np.copyto(out, array if own is None else array[own], casting="unsafe")


def _asked(ask: Callable[[], Any], t: int) -> Any:
    """What the source answers. Its own error passes through, with a note that names the batch."""
    try:
        return ask()
    except Exception as error:
        error.add_note(f"batch {t} of the stream")
        raise
