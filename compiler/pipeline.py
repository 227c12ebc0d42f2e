"""The passes in their order, from what JAX lowered to the program. The stages are marks in it.

This is the one place that says what comes after what; `metagrad-opt`, the documentation and the
tests read it here.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable
from types import ModuleType

from jaxlib.mlir import ir

from metagrad.compiler.analysis.fingerprint import fingerprint
from metagrad.compiler.dialect import context
from metagrad.compiler.passes import (
    cut,
    differentiate,
    expand,
    kernels,
    pieces,
    queries,
    raise_gradients,
    schedule,
    verify,
)
from metagrad.compiler.passes.for_cpu import (
    canonicalise_convolutions,
    flatten_contractions,
    reverse_kernels,
    transpose_products,
)
from metagrad.compiler.passes.for_enzyme import (
    counters_first,
    narrow_products,
    scalar_slices,
    widen_counters,
)
from metagrad.compiler.passes.for_xla import (
    inverse_square_roots,
    join_pads,
    read_rows_in_place,
    save_products,
    update_rows,
)
from metagrad.runtime import stage_reports
from metagrad.runtime.schedules.plan import Plan
from metagrad.runtime.schedules.segment_tables import Segment


@dataclasses.dataclass(frozen=True)
class Stage:
    """A state of the program that can be looked at.

    Attributes:
      name: what `Lowered.ir` calls it.
      passes: the passes that lead from the stage before to this one, in order.
      cpu_passes: passes behind these, in a program for a CPU.
      last: passes behind all of these.
    """

    name: str
    passes: tuple[ModuleType, ...]
    cpu_passes: tuple[ModuleType, ...] = ()
    last: tuple[ModuleType, ...] = ()

    def passes_for(self, platform: str, devices: int = 1) -> tuple[ModuleType, ...]:
        """The passes in a program for a platform, as JAX calls it: "cpu", "cuda", ...

        Those for a CPU bring operands into other shapes, of which a partitioner would have to move
        each by itself. So they are for one device.
        """
        for_cpu = self.cpu_passes if platform == "cpu" and devices == 1 else ()
        return (*self.passes, *for_cpu, *self.last)


PIPELINE = (
    Stage("traced", (raise_gradients, scalar_slices, verify)),
    Stage("cut", (cut,)),
    Stage("differentiated", (differentiate,)),
    Stage(
        "pieces",
        (
            # What Enzyme needs, and Enzyme.
            widen_counters,
            counters_first,
            expand,
            narrow_products,
            pieces,
            # What XLA is bad at. Only values matter from here on.
            read_rows_in_place,
            update_rows,
            save_products,
            inverse_square_roots,
            join_pads,
        ),
        (flatten_contractions, transpose_products, reverse_kernels, canonicalise_convolutions),
        (queries,),
    ),
    Stage("scheduled", (schedule,)),
)

STAGES = tuple(stage.name for stage in PIPELINE)

FORWARD_PIPELINE = (
    Stage("traced", (raise_gradients, scalar_slices, verify)),
    Stage("forward", ()),
    Stage(
        "program",
        (join_pads,),
        (flatten_contractions, reverse_kernels, canonicalise_convolutions),
    ),
)
"""Of a run in forward mode. JAX has made all of its derivatives: "forward" is what it lowered."""

PASSES = {module.NAME: module for stage in PIPELINE for module in stage.passes_for("cpu")} | {
    kernels.NAME: kernels
}
"""Every pass by its name on the command line."""


def bytecode_of(module: ir.Module) -> bytes:
    buffer = io.BytesIO()
    module.operation.write_bytecode(buffer)
    return buffer.getvalue()


class Snapshots:
    """The module as it was at each stage.

    Kept as bytecode, which takes milliseconds and little memory; made to text when asked for.
    """

    def __init__(
        self,
        traced: Callable[[], ir.Module] | None = None,
        stages: tuple[Stage, ...] = PIPELINE,
    ):
        self._bytecode: dict[str, bytes] = {}
        self._traced = traced
        self.stages = tuple(stage.name for stage in stages)

    def take(self, stage: str, module: ir.Module) -> None:
        self._bytecode[stage] = bytecode_of(module)

    @property
    def program(self) -> bytes:
        """The finished module, as bytecode."""
        return self._bytecode[self.stages[-1]]

    def text(self, stage: str) -> str:
        """The module at a stage, as text that `metagrad-opt` reads."""
        first = PIPELINE[0]
        if stage == first.name and self._traced is not None:
            module = self._traced()
            with module.context, ir.Location.unknown():
                for pass_module in first.passes:
                    pass_module.run(module)
            return context.text(module)
        return context.text(self.module(stage))

    def module(self, stage: str) -> ir.Module:
        """The module at a stage, anew, in a context of its own. Not for the first stage."""
        return context.parse(self._bytecode[stage])


def run(
    module: ir.Module,
    *,
    platform: str,
    devices: int = 1,
    traced: Callable[[], ir.Module] | None = None,
) -> Snapshots:
    """Runs the passes on `module`, in place, until its pieces are finished.

    `write_program` writes the fused program around them, and `kernel` those of the streamed
    executor.

    Args:
      module: what the frontend lowered: the step, in one piece or cut, @outer and the losses.
      platform: what the program is for, as JAX calls it: "cpu", "cuda", ...
      devices: how many it runs on.
      traced: makes the module with the step in one piece, if `module` has it cut. Called when that
        stage is asked for.

    Raises:
      EnzymeError: Enzyme could not differentiate a function.
      ValueError: the module is malformed; the message names the op.
    """
    snapshots = Snapshots(traced)
    with module.context, ir.Location.unknown():
        for stage in PIPELINE[:-1]:
            for pass_module in stage.passes_for(platform, devices):
                stage_reports.stage(f"running the pass {pass_module.NAME}")
                pass_module.run(module)
            snapshots.take(stage.name, module)
    return snapshots


def run_forward(
    module: ir.Module,
    *,
    platform: str,
    devices: int,
    traced: Callable[[], ir.Module],
) -> Snapshots:
    """Runs the passes on the whole program of a run in forward mode, in place.

    Args: as of `run`.
    """
    snapshots = Snapshots(traced, FORWARD_PIPELINE)
    with module.context, ir.Location.unknown():
        schedule.finish(module)
        snapshots.take("forward", module)
    finish_program(module, platform, devices)
    snapshots.take("program", module)
    return snapshots


def finish_program(module: ir.Module, platform: str, devices: int) -> None:
    """Runs the last passes on a module whose @main is the whole program, in place."""
    with module.context, ir.Location.unknown():
        schedule.finish(module)
        for pass_module in FORWARD_PIPELINE[-1].passes_for(platform, devices):
            stage_reports.stage(f"running the pass {pass_module.NAME}")
            pass_module.run(module)


def makes_same_forward_program(module: ir.Module, snapshots: Snapshots) -> bool:
    """Whether `run_forward` would make the program of `snapshots` of this module."""
    with module.context, ir.Location.unknown():
        schedule.finish(module)
    return fingerprint(module, ("main",)) == fingerprint(snapshots.module("forward"), ("main",))


def write_program(module: ir.Module, plan: Plan, snapshots: Snapshots) -> None:
    """The last stage: the program around the finished pieces of a module, in place.

    Args:
      module: what `run` made.
      plan: the schedule.
      snapshots: what `run` returned; it gets the last stage.
    """
    with module.context, ir.Location.unknown():
        stage_reports.stage(f"running the pass {schedule.NAME}")
        schedule.run(module, plan)
        snapshots.take(PIPELINE[-1].name, module)


def kernel(snapshots: Snapshots, name: str, segment: Segment) -> ir.Module:
    """One of the streamed executor's programs (passes/kernels.py), around the finished pieces."""
    module = snapshots.module("pieces")
    with module.context, ir.Location.unknown():
        kernels.run(module, name, segment)
    return module


def makes_same_program(module: ir.Module, snapshots: Snapshots) -> bool:
    """Whether `run` would make the program of `snapshots` of this module, with the same plan.

    Runs the passes up to "cut" on the module, in place.
    """
    with module.context, ir.Location.unknown():
        for stage in PIPELINE[: STAGES.index("cut") + 1]:
            for pass_module in stage.passes:
                pass_module.run(module)
    roots = ("inner", "update", "outer", "prints", "outer_prints")
    return fingerprint(module, roots) == fingerprint(snapshots.module("cut"), roots)
