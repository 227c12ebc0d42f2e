"""What lowering a metagradient for the streamed executor makes."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

from jax.sharding import Mesh

from metagrad.api.approximations import approximation_notes
from metagrad.api.request import Request
from metagrad.api.run_options import StreamOptions
from metagrad.api.signature import Signature
from metagrad.api.streamed_executable import StreamedExecutable
from metagrad.compiler import pipeline
from metagrad.compiler.pipeline import Snapshots
from metagrad.frontend.captured import Captured
from metagrad.frontend.jaxprs.cuts import Place
from metagrad.frontend.partition import Decision
from metagrad.frontend.recomputation import Recomputed
from metagrad.runtime.executors import host_calls
from metagrad.runtime.executors.fused import FusedProgram, signature
from metagrad.runtime.executors.kernels import Kernels, StepLayout, kernel_gradients
from metagrad.runtime.schedules.segment_tables import KERNELS, Segment
from metagrad.runtime.schedules.two_level import SegmentSlots


@dataclasses.dataclass(frozen=True, eq=False)
class StreamedProgram:
    """A metagradient lowered for given shapes of a batch, whatever the number of batches.

    Attributes:
      request: what it is of.
      signature: the trees of its arguments and results. That of the batches has a leading axis of
        `steps`.
      layout: what stands where in the flat lists of arrays.
      has_gradients: whether the step has inner gradients.
      steps: T of the arguments that it was lowered for.
      decisions: who differentiates each function, and why.
      slots: what a slot holds of the state, as lines of text.
      recomputed: the blocks that are computed again; None if none are to be (`TracedRun`).
      cuts: finds the stop_gradients and custom rules on the way to the value.
      snapshots: the module as it was at each stage, up to the pieces.
      snapshots_for: the same for another platform.
      platform: what it was lowered for: "cpu", "cuda", ...
      callbacks: the host functions that the pieces call.
      captured: the arrays that the functions capture.
      options: how it is run.
      unread: paths of the floating-point leaves of meta that the step does not read.
      x64: whether it was lowered with double precision on (`jax_enable_x64`).
      names: what the user calls the step and the outer function.
      mesh: the devices that the functions speak of, if there are several.
    """

    request: Request
    signature: Signature
    layout: StepLayout
    has_gradients: bool
    steps: int
    decisions: tuple[Decision, ...]
    slots: tuple[str, ...]
    recomputed: Recomputed | None
    cuts: Callable[[], tuple[Place, ...]]
    snapshots: Snapshots
    snapshots_for: Callable[[str], Snapshots]
    platform: str
    callbacks: tuple[Callable, ...]
    captured: Captured
    options: StreamOptions
    unread: tuple[str, ...]
    x64: bool
    names: tuple[str, str]
    mesh: Mesh | None

    @property
    def notes(self) -> tuple[str, ...]:
        """What `explain()` says first: approximations."""
        return approximation_notes(self.request.approximations, self.steps)

    @functools.cached_property
    def queries(self) -> int | None:
        """How many entries the outer value has; None for a scalar."""
        value, *_ = signature(self.snapshots.module("pieces"), "outer_vjp")[1]
        return value.shape[0] if value.shape else None

    def kernels(self, slots: SegmentSlots) -> Kernels:
        """The programs for plans with segments of one shape."""
        if slots not in self._kernels:
            self._kernels[slots] = self._kernels_of(slots)
        return self._kernels[slots]

    @functools.cached_property
    def _kernels(self) -> dict[SegmentSlots, Kernels]:
        return {}

    def _kernels_of(self, slots: SegmentSlots) -> Kernels:
        segment = self.segment(slots)
        programs = (self._program(name, segment) for name in KERNELS)
        return Kernels.of(self.layout, segment, slots, *programs)

    def segment(self, slots: SegmentSlots) -> Segment:
        """What the programs are for."""
        return Segment.of(slots, self.options.verify == "replay")

    def _program(self, name: str, segment: Segment) -> FusedProgram:
        module = pipeline.kernel(self.snapshots, name, segment)
        inputs, outputs = signature(module)
        # JAX keeps a program as long as what it compiled, so it must not hold all of this.
        own, own_platform, snapshots_for = (
            pipeline.bytecode_of(module),
            self.platform,
            self.snapshots_for,
        )

        @functools.cache
        def bytecode(platform: str) -> bytes:
            if platform == own_platform:
                return own
            return pipeline.bytecode_of(pipeline.kernel(snapshots_for(platform), name, segment))

        return FusedProgram(
            bytecode,
            self.platform,
            inputs,
            outputs,
            self.callbacks if host_calls.calls_host(module) else (),
            kernel_gradients(name, self.layout, inputs, outputs),
            self.mesh,
        )

    @functools.cached_property
    def executable(self) -> StreamedExecutable:
        """What a run needs."""
        return StreamedExecutable(
            self.signature,
            self.layout,
            () if self.queries is None else (self.queries,),
            self.kernels,
            self.captured.arrays_beside,
            lambda: self.snapshots.text("pieces"),
            self.platform,
            self.options,
        )

    @property
    def summary(self) -> str:
        """Names and sizes in a line."""
        step, outer = self.names
        trees = (self.signature.state, self.signature.meta, self.signature.outer)
        arguments = ", ".join(f"{tree.name}: {tree.count}" for tree in trees if tree.leaves)
        wrt = ", ".join(self.signature.wrt)
        return f"streamed metagradient of {outer} through {step}, wrt {wrt}; {arguments}"
