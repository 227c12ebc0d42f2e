"""What a streamed run collects step by step on the host."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from metagrad.runtime.streams import Checksums, GradientSink
from metagrad.runtime.streams.layout import BatchLayout


class Rows:
    """Arrays with a row for each step: the step's auxiliary results.

    Args:
      steps: T.
      avals: stacked over a segment, [L, ...].
    """

    def __init__(self, steps: int, avals: Sequence[Any]):
        self.stacks = [np.zeros((steps, *aval.shape[1:]), aval.dtype) for aval in avals]

    def write(self, first: int, count: int, leaves: Sequence[Any]) -> None:
        for stack, leaf in zip(self.stacks, leaves):
            stack[first : first + count] = np.asarray(leaf)[:count]

    def arrays(self) -> list[np.ndarray]:
        return [stack.copy() for stack in self.stacks]

    def restore(self, arrays: Sequence[np.ndarray]) -> None:
        for stack, array in zip(self.stacks, arrays, strict=True):
            stack[...] = array


class Sums:
    """The checksums of the batches that were seen."""

    def __init__(self, layout: BatchLayout, steps: int):
        self._layout, self._steps = layout, steps
        self.checksums = Checksums(layout, steps)

    def arrays(self) -> list[np.ndarray]:
        return [self.checksums.table]

    def restore(self, arrays: Sequence[np.ndarray]) -> None:
        self.checksums = Checksums(self._layout, self._steps, arrays[0])


class BatchGradients:
    """Gives a sink the gradients of all floating-point leaves of the batches, step by step.

    A leaf whose cotangent the kernels do not carry gets zeros. It also notes which gradients are
    not finite: later nobody looks at all of them.

    Args:
      sink: takes rows [steps, ...], or [steps, Q, ...] of Q queries.
      floats: the leaves of a batch that the sink takes, by index.
      carried: those of which the kernels return rows.
      rows: for each leaf in `floats`, shape and dtype of a row.
      queries: (Q,), or () for a scalar value. The kernels' rows are [Q, steps, ...] then.
      checks: whether non-finite gradients are noted.

    Attributes:
      faulty: bool [leaves, Q or 1].
    """

    def __init__(
        self,
        sink: GradientSink,
        floats: Sequence[int],
        carried: Sequence[int],
        rows: Sequence[Any],
        queries: tuple[int, ...],
        checks: bool,
    ):
        self._sink, self._floats, self._carried, self._rows = sink, floats, carried, rows
        self._queries, self._checks = queries, checks
        self.faulty = np.zeros((len(floats), *(queries or (1,))), bool)

    def write(self, first: int, count: int, leaves: Sequence[Any]) -> None:
        rows_of = {i: self._rows_first(leaf)[:count] for i, leaf in zip(self._carried, leaves)}
        stacks = []
        for position, (i, row) in enumerate(zip(self._floats, self._rows)):
            if i in rows_of:
                stacks.append(rows_of[i])
                if self._checks:
                    self.faulty[position] |= self._faulty(rows_of[i])
            else:
                stacks.append(np.broadcast_to(np.zeros((), row.dtype), (count, *row.shape)))
        self._sink.write(first, count, stacks)

    def arrays(self) -> list[np.ndarray]:
        return [self.faulty.copy(), *self._sink.arrays()]

    def restore(self, arrays: Sequence[np.ndarray]) -> None:
        self.faulty[...] = arrays[0]
        self._sink.restore(arrays[1:])

    def _rows_first(self, leaf: Any) -> np.ndarray:
        leaf = np.asarray(leaf)
        return np.swapaxes(leaf, 0, 1) if self._queries else leaf

    def _faulty(self, rows: np.ndarray) -> np.ndarray:
        """For each query (for the one), whether a number is not finite."""
        finite = np.isfinite(rows)
        axes = (0, *range(2, rows.ndim)) if self._queries else None
        return ~finite.all(axis=axes)
