"""Plain training for some steps of a run, and the batches of the last ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from metagrad.runtime.streams import Stream


class PlainSteps:
    """Runs a step without any derivative of the run. It compiles once for each set of shapes.

    Args:
      step: `step(state, meta, batch) -> new_state`.
    """

    def __init__(self, step: Callable[[Any, Any, Any], Any]):
        self._one = jax.jit(step)
        self._many = jax.jit(self._loop)

    def __call__(self, state: Any, meta: Any, batches: Any, stop: int, start: int = 0) -> Any:
        """The state before step `stop`, from that before step `start`."""
        if not isinstance(batches, Stream):
            return self._many(state, meta, batches, start, stop)
        for t in range(start, stop):
            state = self._one(state, meta, batches[t])
        return state

    def _loop(self, state: Any, meta: Any, batches: Any, start: Any, stop: Any) -> Any:
        """`start` and `stop` are arguments, so that others compile nothing."""
        advance = lambda t, state: self._one(state, meta, jax.tree.map(lambda x: x[t], batches))
        return jax.lax.fori_loop(start, stop, advance, state)


def steps_of(batches: Any) -> int:
    """T, the number of batches.

    Raises:
      ValueError: there are none.
    """
    if isinstance(batches, Stream):
        return len(batches)
    leaves = jax.tree.leaves(batches)
    if not leaves:
        raise ValueError("batches has no leaves, so there is no number of steps")
    return len(leaves[0])


def batch_at(batches: Any, t: int) -> Any:
    """Batch t."""
    return batches[t] if isinstance(batches, Stream) else jax.tree.map(lambda x: x[t], batches)


def batches_from(batches: Any, t: int) -> Any:
    """The batches from t on, stacked arrays or a stream as they were."""
    if not isinstance(batches, Stream):
        return jax.tree.map(lambda x: x[t:], batches)
    return Stream(_From(batches, t), workers=batches.workers, sharding=batches.sharding)


class _From:
    """The batches of a stream from one on, as a source."""

    def __init__(self, stream: Stream, first: int):
        self._stream, self._first = stream, first

    def __len__(self) -> int:
        return len(self._stream) - self._first

    def __getitem__(self, t: int) -> Any:
        return self._stream[self._first + t]
