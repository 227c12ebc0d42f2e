"""The driver: from a step, an outer function and their arguments to a `Lowered`."""

from __future__ import annotations

import functools
import warnings

import jax
from jaxlib.mlir import ir

from metagrad.api.explain_slots import explain_slots
from metagrad.api.known_finite import known_finite
from metagrad.api.lowered_pieces import emit, lower_pieces, pieces_for
from metagrad.api.plan_choice import fused_choice, streamed_choice
from metagrad.api.program import Program
from metagrad.api.progress import ProgressOption
from metagrad.api.request import Request
from metagrad.api.run_options import StreamOptions
from metagrad.api.stages import Lowered
from metagrad.api.streamed_program import StreamedProgram
from metagrad.api.streamed_stages import StreamedLowered
from metagrad.api.traced_run import TracedRun, trace_run
from metagrad.api.user_frame import users_level
from metagrad.compiler import pipeline
from metagrad.compiler.passes import kernels as kernel_pass
from metagrad.diagnostics import first_nan, non_finite_warning
from metagrad.frontend.jaxprs import cuts
from metagrad.frontend.jaxprs.auto_axes import auto_context
from metagrad.frontend.unread import unread_leaves
from metagrad.runtime import jax_internals
from metagrad.runtime.executors import host_calls
from metagrad.runtime.executors.fused import FusedProgram, check_signature
from metagrad.runtime.executors.kernels import StepLayout
from metagrad.runtime.streams import Stream


def lower(
    request: Request,
    arguments,
    *,
    schedule,
    check_nans: bool | None,
    progress: ProgressOption,
) -> Lowered:
    """Traces, decides who differentiates what, runs the passes and wraps the result.

    See `Metagradient.lower`.
    """
    traced = trace_run(request, arguments)
    pieces = lower_pieces(request, traced)
    signature, emitted, captured = traced.signature, pieces.emitted, pieces.captured
    captured.store_arrays()
    plan = fused_choice(schedule, pieces, arguments)
    plan.validate()
    pipeline.write_program(emitted.module, plan, pieces.snapshots)
    value = traced.outer.jaxpr.out_avals[0]
    outputs = signature.outputs(jax.ShapeDtypeStruct(value.shape, value.dtype), traced.steps)
    host_calls.check(emitted.module, emitted.callbacks, pieces.platform)
    inputs = [*signature.inputs, *captured.avals()]
    check_signature(emitted.module, inputs, outputs)

    @functools.cache
    def bytecode(of_platform: str) -> bytes:
        if of_platform == pieces.platform:
            return pieces.snapshots.program
        others = pieces_for(traced, pieces.ad, of_platform)
        pipeline.write_program(others.emitted.module, plan, others.snapshots)
        return others.snapshots.program

    program = FusedProgram(
        bytecode,
        pieces.platform,
        tuple(inputs),
        tuple(outputs),
        emitted.callbacks,
        signature.gradients(len(captured.avals())),
        traced.mesh,
    )
    first = first_nan.diagnosis(
        request.step,
        request.outer,
        request.step_has_aux,
        request.has_aux,
        request.wrt,
        request.single,
    )
    diagnose = None
    if check_nans:
        diagnose = first
    elif check_nans is None:
        trees = {
            "state": signature.state,
            "meta": signature.meta,
            "batches": signature.batches,
            "outer_args": signature.outer,
        }
        diagnose = non_finite_warning.warning(
            traced.step.jaxpr,
            traced.outer.jaxpr,
            trees,
            traced.active,
            request.wrt,
            request.single,
            request.has_aux,
        )
    return Lowered(
        Program(
            signature,
            traced.shardings,
            plan,
            pieces.decisions,
            explain_slots(signature.state, traced.unchanged, traced.counters),
            functools.cache(functools.partial(_cuts, traced)),
            pieces.snapshots,
            known_finite(emitted.module, signature, traced.unchanged),
            program,
            captured,
            diagnose,
            check_nans,
            progress,
            first,
            unread_leaves(traced.step.jaxpr, signature.meta, traced.layout),
            jax_internals.setting("jax_enable_x64"),
            traced.names,
        )
    )


def lower_streamed(
    request: Request, arguments, stream: Stream, options: StreamOptions
) -> StreamedLowered:
    """Like `lower`, for the streamed executor.

    Args:
      arguments: (state0, meta, shapes of the stacked batches, outer_args).
      stream: the batches.
    """
    traced = trace_run(request, arguments)
    pieces = lower_pieces(request, traced)
    pieces.captured.store_arrays()
    snapshots, signature = pieces.snapshots, traced.signature
    module = snapshots.module("pieces")
    with module.context, ir.Location.unknown():
        layout = kernel_pass.layout_of(module)
    plan = streamed_choice(options.schedule, pieces, arguments, stream)

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
            functools.cache(functools.partial(_cuts, traced)),
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
    traced = trace_run(request, arguments)
    old, new = program.signature, traced.signature
    if (old.aux.shell, old.outer_aux.shell) != (new.aux.shell, new.outer_aux.shell):
        return False
    with auto_context():
        emitter, _, emitted = emit(traced, request.ad, program.platform)
    return emitter.captured.is_same(program.captured) and pipeline.makes_same_program(
        emitted.module, program.snapshots
    )


def _cuts(traced: TracedRun) -> tuple[cuts.Place, ...]:
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
