"""The driver: from a step, an outer function and their arguments to a `Lowered`."""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Callable

import jax
from jaxlib.mlir import ir

from metagrad.api.explain_slots import explain_slots
from metagrad.api.known_finite import known_finite
from metagrad.api.program import Program
from metagrad.api.progress import ProgressOption
from metagrad.api.request import Request
from metagrad.api.stages import Lowered
from metagrad.api.streamed_program import StreamedProgram, StreamOptions
from metagrad.api.streamed_stages import StreamedLowered
from metagrad.api.traced_run import TracedRun, trace_run
from metagrad.api.user_frame import users_level
from metagrad.compiler import pipeline
from metagrad.compiler.enzyme.worker import EnzymeError
from metagrad.compiler.passes import kernels as kernel_pass
from metagrad.diagnostics import first_nan, non_finite_warning
from metagrad.frontend import emit_mlir
from metagrad.frontend.captured import Captured
from metagrad.frontend.divide import Division, divide
from metagrad.frontend.jaxprs import cuts
from metagrad.frontend.partition import Decision
from metagrad.frontend.unread import unread_leaves
from metagrad.runtime import jax_internals
from metagrad.runtime.executors import host_calls
from metagrad.runtime.executors.fused import FusedProgram, check_signature
from metagrad.runtime.executors.kernels import StepLayout
from metagrad.runtime.schedules.plan import Plan
from metagrad.runtime.stage_reports import stage


@dataclasses.dataclass(frozen=True)
class LoweredPieces:
    """A step's pieces, final: what programs of every kind are made of.

    Attributes:
      traced: the traced functions.
      platform: what the pieces are for.
      ad: who differentiates; "jax" if Enzyme failed.
      decisions: who differentiates each function, and why.
      snapshots: the module as it was at each stage.
      emitted: the module itself, after the last stage, and its callbacks.
      captured: the arrays that the functions capture.
    """

    traced: TracedRun
    platform: str
    ad: str
    decisions: tuple[Decision, ...]
    snapshots: pipeline.Snapshots
    emitted: emit_mlir.Traced
    captured: Captured


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
    plan = schedule.plan(traced.steps, gradients=bool(traced.sites))
    plan.validate()
    pieces = lower_pieces(request, traced, plan)
    signature, emitted, captured = traced.signature, pieces.emitted, pieces.captured
    value = traced.outer.jaxpr.out_avals[0]
    outputs = signature.outputs(jax.ShapeDtypeStruct(value.shape, value.dtype), traced.steps)
    host_calls.check(emitted.module, emitted.callbacks, pieces.platform)
    inputs = [*signature.inputs, *captured.avals()]
    check_signature(emitted.module, inputs, outputs)

    @functools.cache
    def bytecode(of_platform: str) -> bytes:
        if of_platform == pieces.platform:
            return pieces.snapshots.program
        return _pieces_for(traced, plan, pieces.ad, of_platform).snapshots.program

    program = FusedProgram(
        bytecode,
        pieces.platform,
        tuple(inputs),
        tuple(outputs),
        emitted.callbacks,
        signature.gradients(len(captured.avals())),
    )
    captured.store_arrays()
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


def lower_streamed(request: Request, arguments, options: StreamOptions) -> StreamedLowered:
    """Like `lower`, for the streamed executor.

    Args:
      arguments: (state0, meta, shapes of the stacked batches, outer_args).
    """
    traced = trace_run(request, arguments)
    pieces = lower_pieces(request, traced, None)
    pieces.captured.store_arrays()
    snapshots, signature = pieces.snapshots, traced.signature
    module = snapshots.module("pieces")
    with module.context, ir.Location.unknown():
        layout = kernel_pass.layout_of(module)
    float_leaves = {
        name: tuple(i for i, leaf in enumerate(tree.leaves) if leaf.is_float)
        for name, tree in signature.differentiated.items()
    }
    return StreamedLowered(
        StreamedProgram(
            request,
            signature,
            StepLayout(
                **layout,
                wrt=request.wrt,
                float_leaves=float_leaves,
                outer_aux=len(signature.outer_aux.leaves),
                aux=len(signature.aux.leaves),
            ),
            bool(traced.sites),
            traced.steps,
            pieces.decisions,
            explain_slots(signature.state, traced.unchanged, traced.counters),
            functools.cache(functools.partial(_cuts, traced)),
            snapshots,
            pieces.platform,
            pieces.emitted.callbacks,
            pieces.captured,
            options,
            unread_leaves(traced.step.jaxpr, signature.meta, traced.layout),
            jax_internals.setting("jax_enable_x64"),
            traced.names,
        )
    )


def lower_pieces(request: Request, traced: TracedRun, plan: Plan | None) -> LoweredPieces:
    """The pieces of a step, and with a plan the fused program around them.

    If Enzyme fails and the user left the choice, JAX differentiates all, with a warning.

    Raises:
      EnzymeError: Enzyme failed, and `ad` is "enzyme".
    """
    platform = jax.default_backend()
    try:
        return _pieces_for(traced, plan, request.ad, platform)
    except EnzymeError as error:
        if request.ad != "auto":
            raise
        meant = {
            "inner": "the gradient of " + " and of ".join(site.label for site in traced.sites),
            "step_vjp": f"the VJP of {traced.names[0]}",
            "outer_vjp": traced.names[1],
        }
        which = (
            f" (@{error.function} is {meant[error.function]})"
            if error.function is not None and f"@{error.function}" in str(error)
            else ""
        )
        warnings.warn(
            f"{str(error).removesuffix('.')}{which}. "
            "JAX differentiates this step instead; lowered.explain() says so.",
            stacklevel=users_level(),
        )
        pieces = _pieces_for(traced, plan, "jax", platform)
        why = (str(error),)
        decisions = tuple(dataclasses.replace(each, why=why) for each in pieces.decisions)
        return dataclasses.replace(pieces, decisions=decisions)


def _pieces_for(traced: TracedRun, plan: Plan | None, ad: str, platform: str) -> LoweredPieces:
    emitter, division, emitted = _emit(traced, ad, platform)
    whole = functools.partial(emitter.whole, traced.marked, traced.outer.jaxpr)
    snapshots = pipeline.run(emitted.module, plan, platform=platform, traced=whole)
    return LoweredPieces(
        traced, platform, ad, tuple(division.decisions), snapshots, emitted, emitter.captured
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
    emitter, _, emitted = _emit(traced, request.ad, program.platform)
    return emitter.captured.is_same(program.captured) and pipeline.makes_same_program(
        emitted.module, program.snapshots
    )


def _emit(
    traced: TracedRun, ad: str, platform: str
) -> tuple[emit_mlir.Emitter, Division, emit_mlir.Traced]:
    """The module of the pieces, before any pass."""
    stage("tracing derivatives")
    division = divide(
        traced.marked, traced.sites, traced.outer.jaxpr, traced.names, traced.active, ad
    )
    stage("lowering to MLIR")
    emitter = emit_mlir.Emitter(
        traced.sites,
        division.of_site,
        traced.active,
        traced.layout,
        traced.signature.wrt,
        platform,
        traced.unchanged,
        traced.counters,
    )
    pieces = _with_prints(division.pieces, traced, lambda function: function.printing)
    emitted = emitter.pieces(pieces)
    if emitted.muted and not (traced.step.printing and traced.outer.printing):
        # A backward rule prints, which shows only when JAX has made the backward pass.
        emitted = emitter.pieces(_with_prints(division.pieces, traced, lambda function: True))
    return emitter, division, emitted


def _cuts(traced: TracedRun) -> tuple[cuts.Place, ...]:
    """`cuts.find_cuts`, which is for `explain()` alone.

    It expands gradients that Enzyme may have differentiated. Should JAX not be able to, the program
    stands all the same.
    """
    try:
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


def _with_prints(
    pieces: emit_mlir.Pieces, traced: TracedRun, chosen: Callable[..., bool]
) -> emit_mlir.Pieces:
    """The pieces, with what the step and the outer function print, if they are `chosen`."""
    return dataclasses.replace(
        pieces,
        prints=traced.step.prints() if chosen(traced.step) else None,
        outer_prints=traced.outer.prints() if chosen(traced.outer) else None,
    )
