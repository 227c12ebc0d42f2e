"""The driver: from a step, an outer function and their arguments to a `Lowered`."""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Callable

import jax

from metagrad.api.program import Program
from metagrad.api.signature import Signature
from metagrad.api.stages import Lowered
from metagrad.api.user_frame import users_level
from metagrad.compiler import pipeline
from metagrad.compiler.dialect.metagrad import Layout
from metagrad.compiler.enzyme.worker import EnzymeError
from metagrad.diagnostics import first_nan, non_finite_warning
from metagrad.frontend import emit_mlir, split_step, trace
from metagrad.frontend.divide import divide
from metagrad.frontend.jaxprs import activity
from metagrad.frontend.pytrees import shaped, tree_of
from metagrad.runtime.executors import host_calls
from metagrad.runtime.executors.fused import FusedProgram, check_signature
from metagrad.runtime.stage_reports import stage


def lower(
    step: Callable,
    outer: Callable,
    arguments,
    *,
    step_has_aux: bool,
    has_aux: bool,
    wrt: tuple[str, ...],
    single: bool,
    schedule,
    ad: str,
    check_nans: bool | None,
    progress: bool | None,
) -> Lowered:
    """Traces, decides who differentiates what, runs the passes and wraps the result.

    See `Metagradient.lower`.
    """
    state0, meta, batches, outer_args = arguments
    batches_tree, batch_tree, steps = trace.batches_tree(batches)
    stage("tracing the step")
    traced = trace.trace_step(
        step, tree_of("state", state0), tree_of("meta", meta), batch_tree, step_has_aux
    )
    stage("tracing the outer function")
    traced_outer = trace.trace_outer(
        outer, traced.state, tree_of("outer_args", outer_args), has_aux
    )
    signature = Signature(
        state=traced.state,
        meta=tree_of("meta", meta),
        batches=batches_tree,
        outer=tree_of("outer_args", outer_args),
        aux=traced.aux,
        outer_aux=traced_outer.aux,
        wrt=wrt,
        single=single,
        step_has_aux=step_has_aux,
        has_aux=has_aux,
    )
    _check_float_leaves(signature)
    marked, sites = split_step.mark_gradients(traced.jaxpr)
    plan = schedule.plan(steps, gradients=bool(sites))
    plan.validate()
    names = (
        getattr(step, "__name__", "step"),
        getattr(outer, "__name__", "outer").replace("<lambda>", "outer (a lambda)"),
    )
    layout = Layout(
        state=len(traced.state.leaves),
        meta=len(signature.meta.leaves),
        batch=len(batch_tree.leaves),
        outer=len(signature.outer.leaves),
    )
    active = activity.find_activity(marked, traced_outer.jaxpr, sites, layout, wrt)

    def attempt(ad: str, platform: str):
        stage("tracing derivatives")
        division = divide(marked, sites, traced_outer.jaxpr, names, active, ad)
        stage("lowering to MLIR")
        emitter = emit_mlir.Emitter(sites, division.of_site, active, layout, wrt, platform)
        pieces = _with_prints(division.pieces, traced, traced_outer, lambda trace: trace.printing)
        emitted = emitter.pieces(pieces)
        if emitted.muted and not (traced.printing and traced_outer.printing):
            # A backward rule prints, which shows only when JAX has made the backward pass.
            pieces = _with_prints(division.pieces, traced, traced_outer, lambda trace: True)
            emitted = emitter.pieces(pieces)
        whole = functools.partial(emitter.whole, marked, traced_outer.jaxpr)
        snapshots = pipeline.run(emitted.module, plan, platform=platform, traced=whole)
        return division.decisions, snapshots, emitted, emitter.captured

    platform = jax.default_backend()
    try:
        decisions, snapshots, emitted, captured = attempt(ad, platform)
    except EnzymeError as error:
        if ad != "auto":
            raise
        ad = "jax"
        meant = {
            "inner": "the gradient of " + " and of ".join(site.label for site in sites),
            "step_vjp": f"the VJP of {names[0]}",
            "outer_vjp": names[1],
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
        decisions, snapshots, emitted, captured = attempt(ad, platform)
        decisions = [dataclasses.replace(decision, why=(str(error),)) for decision in decisions]
    value = traced_outer.jaxpr.out_avals[0]
    outputs = signature.outputs(jax.ShapeDtypeStruct(value.shape, value.dtype), steps)
    host_calls.check(emitted.module, emitted.callbacks, platform)
    inputs = [*signature.inputs, *captured.avals()]
    check_signature(emitted.module, inputs, outputs)

    @functools.cache
    def bytecode(of_platform: str) -> bytes:
        if of_platform == platform:
            return snapshots.program
        return attempt(ad, of_platform)[1].program

    program = FusedProgram(
        bytecode,
        platform,
        tuple(inputs),
        tuple(outputs),
        emitted.callbacks,
        signature.gradients(len(captured.avals())),
    )
    diagnose = None
    if check_nans:
        diagnose = first_nan.diagnosis(step, outer, step_has_aux, has_aux, wrt, single)
    elif check_nans is None:
        trees = {
            "state": signature.state,
            "meta": signature.meta,
            "batches": signature.batches,
            "outer_args": signature.outer,
        }
        diagnose = non_finite_warning.warning(
            traced.jaxpr, traced_outer.jaxpr, trees, active, wrt, single, has_aux
        )
    return Lowered(
        Program(
            signature,
            plan,
            tuple(decisions),
            snapshots,
            program,
            captured.arrays(),
            captured.are_traced,
            diagnose,
            check_nans,
            progress,
        )
    )


def _with_prints(
    pieces: emit_mlir.Pieces, traced, traced_outer, chosen: Callable[..., bool]
) -> emit_mlir.Pieces:
    """The pieces, with what the step and the outer function print, if they are `chosen`."""
    return dataclasses.replace(
        pieces,
        prints=traced.prints() if chosen(traced) else None,
        outer_prints=traced_outer.prints() if chosen(traced_outer) else None,
    )


def _check_float_leaves(signature: Signature) -> None:
    trees = {"state": signature.state, "meta": signature.meta, "batches": signature.batches}
    for name in signature.wrt:
        if not any(leaf.is_float for leaf in trees[name].leaves):
            leaves = (
                ", ".join(f"{leaf.path} {shaped(leaf.aval)}" for leaf in trees[name].leaves)
                or "no arrays at all"
            )
            raise TypeError(
                f'wrt names "{name}", which has no floating-point leaf to differentiate with '
                f"respect to: it has {leaves}. "
                "Hold what you want the gradient of as floating-point arrays."
            )
