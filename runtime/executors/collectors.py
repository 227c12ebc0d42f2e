"""What a streamed run collects step by step on the host."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from metagrad.runtime.streams import Checksums
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
