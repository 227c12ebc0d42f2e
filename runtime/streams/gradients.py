"""Where the gradients of batches go: a stack in memory, a function of the user's, or files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from metagrad.runtime.streams.gradient_files import GradientFiles
from metagrad.runtime.streams.layout import BatchLayout


class GradientSink(Protocol):
    """Takes the gradients of a run's batches, segment by segment.

    Leaves are those of a batch that are floating point, in order. Each batch is written once; in a
    run that is resumed some are written again, with the same bytes.
    """

    def write(self, first: int, count: int, leaves: Sequence[Any]) -> None:
        """Takes the gradients of the batches first .. first + count - 1.

        Args:
          first: t of the first batch.
          count: how many.
          leaves: arrays [at least count, ...]; later rows do not matter.
        """

    def flush(self) -> None:
        """When it returns, what was written survives the end of the process, if it can at all."""

    def result(self) -> Any:
        """What `Result.grad` shows of the batches, when all are written."""

    def arrays(self) -> list[np.ndarray]:
        """Copies of what is in memory alone, for a run that may be resumed; flushes the rest."""

    def restore(self, arrays: Sequence[np.ndarray]) -> None:
        """Takes up what an earlier process had in memory."""

    def close(self) -> None:
        """Lets go of files. What was written stays, whether all was written or not."""


def gradient_sink(gradients: Any, layout: BatchLayout, steps: int) -> GradientSink:
    """The sink for what a user gave as `Stream(gradients=...)`: a folder, a function, or None."""
    if gradients is None:
        return GradientStack(layout, steps)
    if callable(gradients):
        return GradientCalls(gradients, layout)
    return GradientFiles(gradients, layout, steps)


class GradientStack:
    """NumPy arrays [T, ...] in memory."""

    def __init__(self, layout: BatchLayout, steps: int):
        self._layout, self._steps = layout, steps
        self._stacks = [
            np.zeros((steps, *leaf.stored.shape), leaf.stored.dtype)
            for leaf in layout.leaves
            if leaf.is_float
        ]

    def write(self, first: int, count: int, leaves: Sequence[Any]) -> None:
        for stack, leaf in zip(self._stacks, leaves):
            stack[first : first + count] = np.asarray(leaf)[:count]

    def flush(self) -> None:
        """Memory does not survive a process."""

    def arrays(self) -> list[np.ndarray]:
        return [stack.copy() for stack in self._stacks]

    def restore(self, arrays: Sequence[np.ndarray]) -> None:
        for stack, array in zip(self._stacks, arrays, strict=True):
            stack[...] = array

    def result(self) -> Any:
        return self._layout.gradient(self._stacks, (self._steps,))

    def close(self) -> None:
        """There is nothing to let go of."""


class GradientCalls:
    """Calls the user's function for each batch, the latest first, as the reversal goes."""

    def __init__(self, function: Callable[[int, Any], None], layout: BatchLayout):
        self._function, self._layout = function, layout

    def write(self, first: int, count: int, leaves: Sequence[Any]) -> None:
        arrays = [np.asarray(leaf) for leaf in leaves]
        for offset in reversed(range(count)):
            # Copies: a row that the user keeps would keep its whole segment.
            rows = [np.array(array[offset]) for array in arrays]
            try:
                self._function(first + offset, self._layout.gradient(rows))
            except Exception as error:
                error.add_note(f"in Stream(gradients=...), called for batch {first + offset}")
                raise

    def flush(self) -> None:
        """What the function did is its own."""

    def arrays(self) -> list[np.ndarray]:
        return []

    def restore(self, arrays: Sequence[np.ndarray]) -> None:
        """Nothing is in memory."""

    def result(self) -> None:
        """None: the function has them all."""

    def close(self) -> None:
        """There is nothing to let go of."""
