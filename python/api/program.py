"""What lowering a metagradient makes: all that its stages share."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from metagrad.api.progress import ProgressOption
from metagrad.api.shardings import Shardings, as_stored
from metagrad.api.signature import Signature
from metagrad.compiler.pipeline import Snapshots
from metagrad.frontend.captured import Captured
from metagrad.frontend.jaxprs.cuts import Place
from metagrad.frontend.partition import Decision
from metagrad.frontend.recomputation import Recomputed
from metagrad.runtime.executors.fused import FusedProgram
from metagrad.runtime.schedules.forward_plan import ForwardPlan
from metagrad.runtime.schedules.plan import Plan


@dataclasses.dataclass(frozen=True)
class Program:
    """A metagradient lowered for given shapes.

    Attributes:
      signature: the trees of its arguments and results.
      shardings: of the arguments that lie on several devices.
      plan: the schedule.
      decisions: who differentiates each function, and why.
      slots: what a slot holds of the state, as lines of text.
      recomputed: the blocks that are computed again; None if none are to be (`TracedRun`).
      cuts: finds the stop_gradients and custom rules on the way from what `wrt` names to the
        value; once, and not before it is asked.
      snapshots: the module as it was at each stage.
      known_finite: the results that need no look whether they are finite, by index.
      fused: the finished module, called with a flat list of arrays: the arguments' and `captured`.
      captured: the arrays that the functions capture.
      diagnose: called with (result, arguments) where the value, a gradient or the final state is
        not finite. It raises, or returns a warning's text. None: results are not looked at.
      check_nans, progress: the options of `TrainStep.metagradient`.
      first_nan: called with (result, arguments); raises FloatingPointError if there is a NaN, and
        says at which step of the run and of its reversal it appeared first.
      unread: paths of the floating-point leaves of meta that the step does not read.
      x64: whether it was lowered with double precision on (`jax_enable_x64`).
      names: what the user calls the step and the outer function.
      notes: what `explain()` says first: approximations, and why this mode was chosen.
      steps: T of the batches; the plan is for fewer if only the last steps are differentiated.
    """

    signature: Signature
    shardings: Shardings
    plan: Plan | ForwardPlan
    decisions: tuple[Decision, ...]
    slots: tuple[str, ...]
    recomputed: Recomputed | None
    cuts: Callable[[], tuple[Place, ...]]
    snapshots: Snapshots
    known_finite: frozenset[int]
    fused: FusedProgram
    captured: Captured
    diagnose: Callable[[Any, tuple], str | None] | None
    check_nans: bool | None
    progress: ProgressOption
    first_nan: Callable[[Any, tuple], None]
    unread: tuple[str, ...]
    x64: bool
    names: tuple[str, str]
    notes: tuple[str, ...]
    steps: int

    @property
    def inputs(self) -> list[jax.ShapeDtypeStruct]:
        """What the program takes, with the shardings of the arguments."""
        arguments = [as_stored(leaf, self.shardings) for leaf in self.signature.leaves]
        return [*arguments, *self.fused.inputs[len(arguments) :]]

    @property
    def platform(self) -> str:
        """What it was lowered for: "cpu", "cuda", ..."""
        return self.fused.platform

    @property
    def is_forward(self) -> bool:
        """Whether tangents go along with the state, and nothing is reversed."""
        return isinstance(self.plan, ForwardPlan)

    @property
    def queries(self) -> int | None:
        """How many entries the outer value has; None for a scalar."""
        shape = self.fused.outputs[0].shape
        return shape[0] if shape else None

    @property
    def summary(self) -> str:
        """Names, sizes and schedule in a line."""
        step, outer = self.names
        signature = self.signature
        arguments = ", ".join(
            f"{tree.name}: {tree.count}"
            for tree in (signature.state, signature.meta, signature.batches, signature.outer)
            if tree.leaves
        )
        wrt = ", ".join(signature.wrt)
        steps = "1 step" if self.steps == 1 else f"{self.steps:,} steps"
        queries = {None: "", 1: " (1 query)"}.get(self.queries, f" ({self.queries} queries)")
        return (
            f"metagradient of {outer}{queries} through {steps} of {step}, "
            f"wrt {wrt}; {arguments}; {self.plan.schedule}"
        )
