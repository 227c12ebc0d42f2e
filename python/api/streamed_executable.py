"""What a streamed run needs of its program, whether it was compiled here or read from a file."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import jax

from metagrad.api.run_options import StreamOptions
from metagrad.api.signature import Signature
from metagrad.runtime.executors.kernels import Arrays, Kernels, StepLayout
from metagrad.runtime.schedules.two_level import SegmentSlots


@dataclasses.dataclass(frozen=True, eq=False)
class StreamedExecutable:
    """A metagradient that `run_streamed` runs. Neither the compiler nor Enzyme has a part in it.

    Attributes:
      signature: the trees of its arguments and results. That of the batches has a leading axis.
      layout: what stands where in the flat lists of arrays.
      queries: (Q,) where the outer value is a vector of Q, () where it is a scalar.
      kernels: the programs for segments.
      captured: from the arrays of a call to the captured ones, on the same devices.
      fingerprint: what tells this program from another, for runs that are resumed; made when asked
        for.
      platform: what it was lowered for: "cpu", "cuda", ...
      options: how it is run.
      is_loaded: whether it is from a file, where the functions that it was made of are not known.
    """

    signature: Signature
    layout: StepLayout
    queries: tuple[int, ...]
    kernels: Callable[[SegmentSlots], Kernels]
    captured: Callable[[Arrays], Arrays]
    fingerprint: Callable[[], str]
    platform: str
    options: StreamOptions
    is_loaded: bool = False

    @functools.cached_property
    def changed(self) -> list[jax.ShapeDtypeStruct]:
        """Shapes and dtypes of what a slot holds of a state."""
        leaves = self.signature.state.leaves
        return [leaves[i].stored for i in self.layout.changed]
