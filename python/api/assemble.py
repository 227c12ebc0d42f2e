"""Makes a `Lowered` of a finished program, whichever mode it differentiates the run in."""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Callable
from typing import NamedTuple

import jax
from jaxlib.mlir import ir

from metagrad.api.approximations import approximation_notes
from metagrad.api.explain_slots import explain_slots
from metagrad.api.known_finite import known_finite
from metagrad.api.program import Program
from metagrad.api.progress import ProgressOption
from metagrad.api.request import Request
from metagrad.api.stages import Lowered
from metagrad.api.traced_run import TracedRun
from metagrad.api.user_frame import users_level
from metagrad.compiler.pipeline import Snapshots
from metagrad.diagnostics import first_nan, non_finite_warning
from metagrad.frontend.captured import Captured
from metagrad.frontend.jaxprs import cuts
from metagrad.frontend.jaxprs.auto_axes import auto_context
from metagrad.frontend.partition import Decision
from metagrad.frontend.recomputation import Recomputed
from metagrad.frontend.unread import unread_leaves
from metagrad.runtime import jax_internals
from metagrad.runtime.executors import host_calls
from metagrad.runtime.executors.derived import Derivations
from metagrad.runtime.executors.fused import FusedProgram, check_signature
from metagrad.runtime.schedules.forward_plan import ForwardPlan
from metagrad.runtime.schedules.plan import Plan


@dataclasses.dataclass(frozen=True)
class Finished:
    """A program of one mode: a module whose @main is the whole run.

    Attributes:
      steps: T of the batches that @main takes.
      plan: of the steps that are differentiated.
      decisions: who differentiates each function, and why.
      snapshots: the module as it was at each stage.
      module: as it is after the last one.
      callbacks: the host functions that it calls.
      captured: the arrays that the functions capture.
      platform: what it is for.
      bytecode_for: the finished module for another platform.
      notes: why this mode was chosen, in words; nothing if there was no choice.
      recomputed: the blocks that are computed again (`TracedRun`).
    """

    steps: int
    plan: Plan | ForwardPlan
    decisions: tuple[Decision, ...]
    snapshots: Snapshots
    module: ir.Module
    callbacks: tuple[Callable, ...]
    captured: Captured
    platform: str
    bytecode_for: Callable[[str], bytes]
    notes: tuple[str, ...] = ()
    recomputed: Recomputed | None = None

    def fused(self, traced: TracedRun, derivations: Derivations | None = None) -> FusedProgram:
        """The program as a JAX callable.

        Args:
          traced: of `steps` steps.
          derivations: makes programs of this one; None if nobody asks for them.
        """
        signature, value = traced.signature, traced.outer.jaxpr.out_avals[0]
        outputs = signature.outputs(jax.ShapeDtypeStruct(value.shape, value.dtype), self.steps)
        host_calls.check(self.module, self.callbacks, self.platform)
        inputs = [*signature.inputs, *self.captured.avals()]
        check_signature(self.module, inputs, outputs)
        snapshots = self.snapshots

        @functools.cache
        def bytecode(of_platform: str) -> bytes:
            if of_platform == self.platform:
                return snapshots.program
            return self.bytecode_for(of_platform)

        return FusedProgram(
            bytecode,
            self.platform,
            tuple(inputs),
            tuple(outputs),
            self.callbacks,
            signature.gradients(len(self.captured.avals())),
            traced.mesh,
            derivations,
        )


class RunLooks(NamedTuple):
    """The options `check_nans` and `progress` of `TrainStep.metagradient`."""

    check_nans: bool | None
    progress: ProgressOption


def assembled(
    traced: TracedRun,
    request: Request,
    finished: Finished,
    fused: FusedProgram,
    options: RunLooks,
) -> Lowered:
    """The program `fused` with all that a call of it needs."""
    signature = traced.signature
    is_forward = isinstance(finished.plan, ForwardPlan)
    first = first_nan.diagnosis(
        request.step,
        request.outer,
        request.step_has_aux,
        request.has_aux,
        request.wrt,
        request.single,
        is_forward,
    )
    diagnose = None
    if options.check_nans:
        diagnose = first
    elif options.check_nans is None:
        diagnose = _warning(traced, request)
    return Lowered(
        Program(
            signature,
            traced.shardings,
            finished.plan,
            finished.decisions,
            () if is_forward else explain_slots(signature.state, traced.unchanged, traced.counters),
            finished.recomputed,
            functools.cache(functools.partial(find_cuts, traced)),
            finished.snapshots,
            known_finite(finished.module, signature, traced.unchanged),
            fused,
            finished.captured,
            diagnose,
            options.check_nans,
            options.progress,
            first,
            unread_leaves(traced.step.jaxpr, signature.meta, traced.layout),
            jax_internals.setting("jax_enable_x64"),
            traced.names,
            (*approximation_notes(request.approximations, traced.steps), *finished.notes),
            traced.steps,
        )
    )


def _warning(traced: TracedRun, request: Request) -> Callable:
    signature = traced.signature
    trees = {
        "state": signature.state,
        "meta": signature.meta,
        "batches": signature.batches,
        "outer_args": signature.outer,
    }
    return non_finite_warning.warning(
        traced.step.jaxpr,
        traced.outer.jaxpr,
        trees,
        traced.active,
        request.wrt,
        request.single,
        request.has_aux,
    )


def find_cuts(traced: TracedRun) -> tuple[cuts.Place, ...]:
    """`cuts.find_cuts`, which is for `explain()` alone.

    It expands gradients that Enzyme may have differentiated. Should JAX not be able to, the program
    stands all the same.
    """
    try:
        with auto_context():
            return cuts.find_cuts(
                traced.step.jaxpr, traced.outer.jaxpr, traced.layout, traced.signature.wrt
            )
    except Exception as error:
        warnings.warn(
            "lowered.explain() cannot say which stop_gradients are on the way: "
            f"{type(error).__name__}: {error}",
            stacklevel=users_level(),
        )
        return ()
