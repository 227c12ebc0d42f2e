"""`verify="replay"`: replayed states must have the bits of the first pass.

A gradient is that of the run that was trained only if its replays compute the very same states. The
kernels return a checksum of each leaf of the state at a segment's end (compiler/dialect/
checksums.py), in the training run and whenever the segment is run again.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np

from metagrad.runtime.executors.walk import bounds


class ReplayError(RuntimeError):
    """A replay computed another state than the training run did."""


class ReplayCheck:
    """Compares the checksums of replays with those of the training run.

    Args:
      length, steps: L and T.
      paths: what users call the leaves of the state of which there are checksums.
      platform: of the devices, for the message.

    Attributes:
      table: uint32 [segments, leaves + 1]; the last column is 1 where the others are known.
    """

    def __init__(self, length: int, steps: int, paths: Sequence[str], platform: str):
        self._length, self._steps = length, steps
        self._paths, self._platform = paths, platform
        self.table = np.zeros((-(-steps // length), len(paths) + 1), np.uint32)

    def arrays(self) -> list[np.ndarray]:
        """The table, for a run that goes on from here."""
        return [self.table.copy()]

    def restore(self, arrays: Sequence[np.ndarray]) -> None:
        self.table[...] = arrays[0]

    def at_end(self, segment: int, checksums: Sequence) -> None:
        """Notes or compares the checksums of the state at a segment's end.

        Raises:
          ReplayError: they are not those of the first time.
        """
        values = np.array([*jax.device_get(list(checksums)), 1], np.uint32)
        if not self.table[segment, -1]:
            self.table[segment] = values
        differing = np.flatnonzero(self.table[segment] != values)
        if len(differing):
            raise ReplayError(self._message(segment, [self._paths[int(i)] for i in differing]))

    def _message(self, segment: int, paths: Sequence[str]) -> str:
        first, count = bounds(segment, self._length, self._steps)
        listed = ", ".join(paths[:3]) + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")
        differ = "differs" if len(paths) == 1 else "differ"
        return (
            f"the replay of steps {first} to {first + count - 1} does not end in the state of the "
            f"training run: at step {first + count}, {listed} {differ}. The gradient would be that "
            f"of another run. {_CAUSES.get(self._platform, _CAUSES['cpu'])}"
        )


_CAUSES = {
    "cpu": (
        "Usual causes: a step that calls the host (jax.pure_callback, io_callback) and gets other "
        "answers, a custom kernel with threads that add up in any order, faulty memory."
    ),
    "cuda": (
        "Usual causes: atomic additions (scatter-add, some convolutions) and autotuning; set "
        "XLA_FLAGS=--xla_gpu_deterministic_ops=true. Also a step that calls the host and gets "
        "other answers, a custom kernel that is not deterministic, faulty memory."
    ),
}
