"""What lowering a metagradient makes: all that its stages share."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from metagrad.api.signature import Signature
from metagrad.compiler.pipeline import Snapshots
from metagrad.frontend.partition import Decision
from metagrad.runtime.executors.fused import FusedProgram
from metagrad.runtime.schedules.plan import Plan


@dataclasses.dataclass(frozen=True)
class Program:
    """A metagradient lowered for given shapes.

    Attributes:
      signature: the trees of its arguments and results.
      plan: the schedule.
      decisions: who differentiates each function, and why.
      snapshots: the module as it was at each stage.
      fused: the finished module, called with a flat list of arrays: the arguments' and `captured`.
      captured: the arrays that the functions capture.
      is_of_one_trace: whether one of these is a traced value, so that no other call may have the
        program.
      diagnose: called with (result, arguments) where the value, a gradient or the final state is
        not finite. It raises, or returns a warning's text. None: results are not looked at.
      check_nans, progress: the options of `TrainStep.metagradient`.
    """

    signature: Signature
    plan: Plan
    decisions: tuple[Decision, ...]
    snapshots: Snapshots
    fused: FusedProgram
    captured: list[jax.Array]
    is_of_one_trace: bool
    diagnose: Callable[[Any, tuple], str | None] | None
    check_nans: bool | None
    progress: bool | None
