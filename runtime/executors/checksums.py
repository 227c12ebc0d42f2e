"""`verify="replay"`: replayed states must have the bits of the first pass.

A gradient is that of the run that was trained only if its replays compute the very same states. The
kernels return a checksum of each leaf of the state at a segment's end (compiler/dialect/
checksums.py), in the training run and whenever the segment is run again.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class ReplayError(RuntimeError):
    """A replay computed another state than the training run did."""


class ReplayCheck:
    """Compares the checksums of replays with those of the training run.

    Args:
      length, steps: L and T.
      paths: what users call the leaves of the state of which there are checksums.
      platform: of the devices, for the message.
    """

    def __init__(self, length: int, steps: int, paths: Sequence[str], platform: str):
        self._length, self._steps = length, steps
        self._paths, self._platform = paths, platform
        self.of_segment: dict[int, np.ndarray] = {}

    def at_end(self, segment: int, checksums: Sequence) -> None:
        """Notes or compares the checksums of the state at a segment's end.

        Raises:
          ReplayError: they are not those of the first time.
        """
        values = np.array([int(checksum) for checksum in checksums], np.uint32)
        first_values = self.of_segment.setdefault(segment, values)
        differing = np.flatnonzero(first_values != values)
        if len(differing):
            first = segment * self._length
            last = min(first + self._length, self._steps)
            paths = ", ".join(self._paths[i] for i in differing[:3])
            more = f" and {len(differing) - 3} more leaves" if len(differing) > 3 else ""
            raise ReplayError(
                f"the replay of steps {first} to {last - 1} does not end in the state of the "
                f"training run: {paths}{more} differ at step {last}. The gradient would be of "
                f"another run. {_CAUSES.get(self._platform, _CAUSES['cpu'])}"
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
