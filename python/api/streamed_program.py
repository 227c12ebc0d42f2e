"""What lowering a metagradient for the streamed executor makes."""

from __future__ import annotations

import dataclasses
import functools
import math
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax

from metagrad.api.progress import ProgressOption
from metagrad.api.request import Request
from metagrad.api.signature import Signature
from metagrad.compiler import pipeline
from metagrad.compiler.passes import kernels as kernel_pass
from metagrad.compiler.pipeline import Snapshots
from metagrad.frontend.captured import Captured
from metagrad.frontend.jaxprs.cuts import Place
from metagrad.frontend.partition import Decision
from metagrad.runtime.executors import host_calls
from metagrad.runtime.executors.fused import FusedProgram, Gradients, signature
from metagrad.runtime.executors.kernels import Kernels, StepLayout
from metagrad.runtime.schedules.costs import Sizes
from metagrad.runtime.schedules.plan import Plan
from metagrad.runtime.schedules.two_level import SegmentSlots, TwoLevelPlan


@dataclasses.dataclass(frozen=True)
class StreamOptions:
    """The options of `TrainStep.metagradient` that a streamed run has.

    Attributes:
      schedule: of the segments; None chooses one.
      check_nans, progress, resume_dir, save_every, verify: as the user gave them.
    """

    schedule: Any
    check_nans: bool | None
    progress: ProgressOption
    resume_dir: str | os.PathLike | None
    save_every: float
    verify: str | None


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
      cuts: finds the stop_gradients and custom rules on the way to the value.
      snapshots: the module as it was at each stage, up to the pieces.
      platform: what it was lowered for: "cpu", "cuda", ...
      callbacks: the host functions that the pieces call.
      captured: the arrays that the functions capture.
      options: how it is run.
      unread: paths of the floating-point leaves of meta that the step does not read.
      x64: whether it was lowered with double precision on (`jax_enable_x64`).
      names: what the user calls the step and the outer function.
    """

    request: Request
    signature: Signature
    layout: StepLayout
    has_gradients: bool
    steps: int
    decisions: tuple[Decision, ...]
    slots: tuple[str, ...]
    cuts: Callable[[], tuple[Place, ...]]
    snapshots: Snapshots
    platform: str
    callbacks: tuple[Callable, ...]
    captured: Captured
    options: StreamOptions
    unread: tuple[str, ...]
    x64: bool
    names: tuple[str, str]

    @property
    def changed(self) -> list[jax.ShapeDtypeStruct]:
        """Shapes and dtypes of what a slot holds of a state."""
        leaves = self.signature.state.leaves
        return [leaves[i].stored for i in self.layout.changed]

    @functools.cached_property
    def queries(self) -> tuple[int, ...]:
        """(Q,) where the outer value is a vector of Q, () where it is a scalar."""
        outputs = signature(self.snapshots.module("pieces"), "outer_vjp")[1]
        return outputs[0].shape

    @functools.cached_property
    def sizes(self) -> Sizes:
        """Bytes of what a run holds."""
        _, gradients = signature(self.snapshots.module("pieces"), "inner")
        batches = self.signature.batches.leaves
        return Sizes(
            state=_bytes(self.changed),
            gradient=_bytes(gradients),
            batch=_bytes([leaf.stored for leaf in batches]) // self.steps,
        )

    def kernels(self, plan: TwoLevelPlan) -> Kernels:
        """The programs for a plan. Plans with segments of one shape have the same."""
        slots = plan.segment_slots
        if slots not in self._kernels:
            self._kernels[slots] = self._kernels_of(slots)
        return self._kernels[slots]

    @functools.cached_property
    def _kernels(self) -> dict[SegmentSlots, Kernels]:
        return {}

    def _kernels_of(self, slots: SegmentSlots) -> Kernels:
        segment = kernel_pass.Segment(
            slots.steps,
            slots.state_slots,
            slots.gradient_slots,
            kernel_pass.ANY if slots.may_replay else kernel_pass.STORES_ALL,
            self.options.verify == "replay",
        )
        programs = {name: self._program(name, segment) for name in kernel_pass.KERNELS}
        return Kernels(
            slots.steps,
            self.layout,
            programs["advance"],
            programs["outer_vjp"],
            programs["reverse"],
            functools.cache(
                lambda count: segment.tables(
                    _plan_within(slots, count), gradients=self.has_gradients
                )
            ),
            segment.checksums,
        )

    def _program(self, name: str, segment: kernel_pass.Segment) -> FusedProgram:
        module = pipeline.kernel(self.snapshots, name, segment)
        inputs, outputs = signature(module)
        bytecode = pipeline.bytecode_of(module)
        return FusedProgram(
            lambda _: bytecode,
            self.platform,
            inputs,
            outputs,
            self.callbacks if host_calls.calls_host(module) else (),
            Gradients({}, _numbered("argument", inputs), _numbered("result", outputs)),
        )

    @property
    def summary(self) -> str:
        """Names and sizes in a line."""
        step, outer = self.names
        trees = (self.signature.state, self.signature.meta, self.signature.outer)
        arguments = ", ".join(f"{tree.name}: {tree.count}" for tree in trees if tree.leaves)
        wrt = ", ".join(self.signature.wrt)
        return f"streamed metagradient of {outer} through {step}, wrt {wrt}; {arguments}"


def _plan_within(slots: SegmentSlots, count: int) -> Plan:
    """The plan of a segment of `count` steps, in the slots of one of L steps.

    A shorter plan may keep more gradients, since it needs fewer slots for states. It is then made
    without any: their steps are run once more.
    """
    plan = slots.plan(count)
    if plan.gradient_slots > slots.gradient_slots:
        plan = slots.schedule.plan(count, gradients=False)
    return plan


def _bytes(avals: Sequence[Any]) -> int:
    return sum(math.prod(aval.shape) * aval.dtype.itemsize for aval in avals)


def _numbered(what: str, values: Sequence) -> tuple[str, ...]:
    return tuple(f"{what} {i}" for i in range(len(values)))
