"""The driver: from a step, an outer function and their arguments to a `Lowered`."""

from __future__ import annotations

import dataclasses
import functools

from jaxlib.mlir import ir

from metagrad.api.approximations import truncation
from metagrad.api.assemble import Finished, RunLooks, assembled, find_cuts
from metagrad.api.derived_programs import DerivedPrograms
from metagrad.api.explain_slots import explain_slots
from metagrad.api.forward_lowering import lower_forward, makes_same_forward_program
from metagrad.api.lowered_pieces import emit, pieces_for
from metagrad.api.mode_choice import lower_auto
from metagrad.api.plan_choice import streamed_choice
from metagrad.api.program import Program
from metagrad.api.progress import ProgressOption
from metagrad.api.remat_choice import with_plan
from metagrad.api.request import Request
from metagrad.api.reverse_lowering import lower_reverse
from metagrad.api.run_options import StreamOptions
from metagrad.api.stages import Lowered
from metagrad.api.streamed_program import StreamedProgram
from metagrad.api.streamed_stages import StreamedLowered
from metagrad.api.traced_run import TracedRun, trace_run
from metagrad.api.truncated_lowering import behind_plain_steps, of_last_steps
from metagrad.compiler import pipeline
from metagrad.compiler.passes import kernels as kernel_pass
from metagrad.frontend.captured import Captured
from metagrad.frontend.jaxprs.auto_axes import auto_context
from metagrad.frontend.unread import unread_leaves
from metagrad.runtime import jax_internals
from metagrad.runtime.executors.fused import FusedProgram
from metagrad.runtime.executors.kernels import StepLayout
from metagrad.runtime.schedules.auto import Auto
from metagrad.runtime.streams import Stream


def lower(
    request: Request,
    arguments,
    *,
    schedule,
    check_nans: bool | None,
    progress: ProgressOption,
) -> Lowered:
    """Traces, decides in which mode, and wraps the result.

    See `Metagradient.lower`.
    """
    traced = trace_run(request, arguments)
    finished = _whole(request, traced, arguments, schedule)
    fused = _fused(request, traced, finished, schedule)
    return assembled(traced, request, finished, fused, RunLooks(check_nans, progress))


def _whole(
    request: Request,
    traced: TracedRun,
    arguments: tuple,
    schedule,
    captured: Captured | None = None,
) -> Finished:
    """The program of the whole run."""
    last = truncation(request.approximations)
    if last is None or last >= traced.steps:
        return _finished(request, traced, arguments, schedule, captured)
    late, late_arguments = of_last_steps(request, traced, arguments, last)
    program = _finished(request, late, late_arguments, schedule, captured)
    return behind_plain_steps(traced, late, program)


def _finished(
    request: Request, traced: TracedRun, arguments: tuple, schedule, captured: Captured | None
) -> Finished:
    """The program, in the mode that is asked for."""
    if request.mode == "forward":
        return lower_forward(request, traced.look(request.remat == "blocks"), captured)
    if request.mode == "auto":
        return lower_auto(request, traced, arguments, schedule)
    return lower_reverse(request, traced, arguments, schedule, captured)


def _fused(request: Request, traced: TracedRun, finished: Finished, schedule) -> FusedProgram:
    """The program as a JAX callable, of which `jax.vmap` and `jax.jvp` make others."""
    # The derivatives are the same in each mode, and many runs have many directions.
    of_derived = dataclasses.replace(request, mode="reverse")

    def lower_derived(of_request: Request, shapes, of_functions: Captured) -> FusedProgram:
        derived = trace_run(of_request, shapes)
        program = _whole(of_request, derived, shapes, schedule, of_functions)
        return _fused(of_request, derived, program, schedule)

    captured = finished.captured
    x64 = jax_internals.setting("jax_enable_x64")
    return finished.fused(traced, DerivedPrograms(of_derived, traced, captured, x64, lower_derived))


def lower_streamed(
    request: Request, arguments, stream: Stream, options: StreamOptions
) -> StreamedLowered:
    """Like `lower`, for the streamed executor.

    Args:
      arguments: (state0, meta, shapes of the stacked batches, outer_args).
      stream: the batches.
    """
    schedule = options.schedule
    pieces, plan = with_plan(
        request,
        trace_run(request, arguments),
        # Without budgets no plan is measured.
        None if schedule == Auto() else schedule,
        lambda pieces: streamed_choice(schedule, pieces, arguments, stream),
    )
    traced, snapshots, signature = pieces.traced, pieces.snapshots, pieces.traced.signature
    module = snapshots.module("pieces")
    with module.context, ir.Location.unknown():
        layout = kernel_pass.layout_of(module)

    @functools.cache
    def snapshots_for(platform: str) -> pipeline.Snapshots:
        if platform == pieces.platform:
            return snapshots
        return pieces_for(traced, pieces.ad, platform).snapshots

    return StreamedLowered(
        StreamedProgram(
            request,
            signature,
            StepLayout(
                **layout,
                wrt=request.wrt,
                float_leaves=signature.float_leaves,
                outer_aux=len(signature.outer_aux.leaves),
                aux=len(signature.aux.leaves),
            ),
            bool(traced.sites),
            traced.steps,
            pieces.decisions,
            explain_slots(signature.state, traced.unchanged, traced.counters),
            traced.recomputed,
            functools.cache(functools.partial(find_cuts, traced)),
            snapshots,
            snapshots_for,
            pieces.platform,
            pieces.emitted.callbacks,
            pieces.captured,
            options,
            unread_leaves(traced.step.jaxpr, signature.meta, traced.layout),
            jax_internals.setting("jax_enable_x64"),
            traced.names,
            traced.mesh,
        ),
        plan,
    )


def is_program_of(
    program: Program | StreamedProgram,
    request: Request,
    arguments,
) -> bool:
    """Whether these arguments would give this program.

    The step and the outer function are traced and lowered for them, with all derivatives that JAX
    makes. What comes after that depends on nothing else, and is not done.

    Args:
      program: made for the same request and options.
    """
    traced = trace_run(request, arguments).look(program.recomputed is not None)
    old, new = program.signature, traced.signature
    if (old.aux.shell, old.outer_aux.shell) != (new.aux.shell, new.outer_aux.shell):
        return False
    if isinstance(program, Program) and program.is_forward:
        return makes_same_forward_program(traced, program)
    with auto_context():
        emitter, _, emitted = emit(traced, request.ad, program.platform)
    return emitter.captured.is_same(program.captured) and pipeline.makes_same_program(
        emitted.module, program.snapshots
    )
