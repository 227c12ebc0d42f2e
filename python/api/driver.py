"""The driver: from a step, an outer function and their arguments to a `Lowered`."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable

import jax

from metagrad.api.signature import Signature
from metagrad.api.stages import Lowered
from metagrad.api.user_frame import users_level
from metagrad.compiler import pipeline
from metagrad.compiler.dialect.functions import Arguments
from metagrad.compiler.enzyme.worker import EnzymeError
from metagrad.diagnostics import first_nan, non_finite_warning
from metagrad.frontend import emit_mlir, partition, split_step, trace
from metagrad.frontend.jaxprs import activity, stopped_values
from metagrad.frontend.partition import Decision
from metagrad.frontend.pytrees import shaped, tree_of
from metagrad.runtime.executors import host_calls
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
    """Traces, decides who differentiates what, runs the passes and wraps the result. See `Metagradient.lower`."""
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
    marked, found = split_step.mark(traced.jaxpr)
    plan = schedule.plan(steps, gradients=bool(found))
    plan.validate()
    names = (
        getattr(step, "__name__", "step"),
        getattr(outer, "__name__", "outer").replace("<lambda>", "outer (a lambda)"),
    )
    groups = Arguments(
        len(traced.state.leaves),
        len(signature.meta.leaves),
        len(batch_tree.leaves),
        len(signature.outer.leaves),
    )
    active = activity.find(marked, traced_outer.jaxpr, found, groups, wrt)

    def printed(which) -> dict:
        traces = {
            name: what.prints()
            for name, what in (("prints", traced), ("outer_prints", traced_outer))
            if which(what)
        }
        return {name: trace for name, trace in traces.items() if trace is not None}

    def attempt(ad: str):
        stage("tracing derivatives")
        decisions, pieces, of_site = _divide(marked, found, traced_outer.jaxpr, names, active, ad)
        stage("lowering to MLIR")
        made = emit_mlir.lower(
            pieces | printed(lambda traced: traced.printing), found, of_site, active, groups, wrt
        )
        if made.muted and (more := printed(lambda traced: not traced.printing)):
            # A backward rule prints, which shows only when JAX has made the backward pass.
            made = emit_mlir.lower(
                pieces | printed(lambda traced: traced.printing) | more,
                found,
                of_site,
                active,
                groups,
                wrt,
            )
        return decisions, pipeline.run(made.module, plan), made

    try:
        decisions, snapshots, made = attempt(ad)
    except EnzymeError as error:
        if ad != "auto":
            raise
        meant = {
            "inner": "the gradient of " + " and of ".join(site.label for site in found),
            "step_vjp": f"the VJP of {names[0]}",
            "outer_vjp": names[1],
        }
        which = (
            f" (@{error.function} is {meant[error.function]})"
            if f"@{error.function}" in str(error)
            else ""
        )
        warnings.warn(
            f"{error}{which}. JAX differentiates this step instead; lowered.explain() says so.",
            stacklevel=users_level(),
        )
        decisions, snapshots, made = attempt("jax")
        decisions = [dataclasses.replace(decision, why=(str(error),)) for decision in decisions]
    value = traced_outer.jaxpr.out_avals[0]
    outputs = signature.outputs(jax.ShapeDtypeStruct(value.shape, value.dtype), steps)
    program = host_calls.program(made.module, signature.inputs, outputs, made.callbacks)
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
    return Lowered(signature, plan, decisions, snapshots, program, diagnose, check_nans, progress)


def _divide(marked, found, outer, names, active, ad):
    """Decides for each function, and has JAX make the derivatives that are its part."""
    step_name, outer_name = names
    pieces, decisions, of_site = (
        {"step": stopped_values.hold(marked), "outer": stopped_values.hold(outer)},
        [],
        [],
    )
    update = split_step.update_of(marked, found)
    pieces["update_run"] = emit_mlir.as_run(update)
    nested = partition.nested_gradients(update.jaxpr)
    if not found and not nested:
        decisions.append(
            Decision(
                f"the inner gradient of {step_name}", "expanded", ("no metagrad.grad in the step",)
            )
        )
    for site in found:
        decision = partition.decide_gradient(
            site, active.losses[site.index], active.gradients[site.index], ad
        )
        decisions.append(decision)
        of_site.append(_made_by_jax(site, active, decision.rule))
    decisions += nested
    parts = {"update": split_step.first_results(update, len(active.state))}
    parts |= {
        f"inputs_{site.index}": split_step.inputs_of(marked, found, site.index) for site in found
    }
    parts |= {"outer": split_step.first_results(outer, 1)}
    for name, jaxpr in parts.items():
        label = {"update": f"the update of {step_name}", "outer": outer_name}.get(
            name, f"the inputs of {step_name}'s gradient {name[7:]}"
        )
        flags = active.of_outer(jaxpr) if name == "outer" else active.of_update(jaxpr)
        decision = partition.decide_first_order(label, jaxpr, flags, ad)
        if not name.startswith("inputs") or decision.rule != "enzyme":
            decisions.append(decision)
        if decision.rule != "enzyme":
            pieces[f"{name}_vjp"] = emit_mlir.as_run(
                partition.vjp(jaxpr, flags, active.of_results(name), label)
            )
    return decisions, pieces, of_site


def _made_by_jax(
    site: split_step.Site, active: activity.Activity, rule: str
) -> emit_mlir.Derivatives:
    if rule == "enzyme":
        return {}
    operands, seeds = active.losses[site.index], active.gradients[site.index]
    # Enzyme goes over this one again, so it is lowered for it; the others are only run.
    made = {"vjp": partition.loss_vjp(site, operands, seeds)} if rule == "jax-reverse" else {}
    if rule in ("jax", "jax-mixed"):
        product = partition.gradient_vjp if rule == "jax" else partition.gradient_vjp_mixed
        made["grad_vjp"] = emit_mlir.as_run(product(site, operands, seeds))
    return made | {"grad": emit_mlir.as_run(partition.gradient(site))}


def _check_float_leaves(signature: Signature) -> None:
    trees = {"state": signature.state, "meta": signature.meta, "batches": signature.batches}
    for name in signature.wrt:
        if not any(leaf.is_float for leaf in trees[name].leaves):
            found = (
                ", ".join(f"{leaf.path} {shaped(leaf.aval)}" for leaf in trees[name].leaves)
                or "no arrays at all"
            )
            raise TypeError(
                f'wrt names "{name}", which has no floating-point leaf to differentiate with respect to: it has {found}. '
                "Hold what you want the gradient of as floating-point arrays."
            )
