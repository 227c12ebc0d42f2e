"""A metagradient in its stages: traced, lowered, compiled. The names follow `jax.stages`."""

from __future__ import annotations

import dataclasses
import sys
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metagrad.compiler import pipeline
from metagrad.compiler.functions import Arguments
from metagrad.compiler.worker import EnzymeError
from metagrad.frontend import (
    activity,
    constants,
    derivatives,
    lowering,
    nan_warning,
    nans,
    sites,
    tracing,
)
from metagrad.frontend.derivatives import Decision
from metagrad.frontend.leaves import Leaf, Tree, describe, float0, shaped, tree_of
from metagrad.runtime import host_calls
from metagrad.runtime.plan import Plan


@dataclasses.dataclass(frozen=True)
class Signature:
    """The trees of a metagradient's arguments and results, and the way between them and flat lists."""

    state: Tree
    meta: Tree
    batches: Tree
    outer: Tree
    aux: Tree
    outer_aux: Tree
    wrt: tuple[str, ...]
    single: bool
    step_has_aux: bool
    has_aux: bool

    @property
    def inputs(self) -> list[jax.ShapeDtypeStruct]:
        return [
            leaf.stored
            for tree in (self.state, self.meta, self.batches, self.outer)
            for leaf in tree.leaves
        ]

    def flatten(self, state0, meta, batches, outer_args) -> list:
        pairs = (
            (self.state, state0),
            (self.meta, meta),
            (self.batches, batches),
            (self.outer, outer_args),
        )
        return [array for tree, value in pairs for array in tree.flatten(value)]

    def gradient_leaves(self):
        """(group, leaf) for each float leaf of the gradient, in the order of the program's results."""
        trees = {"state": self.state, "meta": self.meta, "batches": self.batches}
        return [
            (name, leaf)
            for name, tree in trees.items()
            if name in self.wrt
            for leaf in tree.leaves
            if leaf.is_float
        ]

    def outputs(self, value: jax.ShapeDtypeStruct, steps: int) -> list[jax.ShapeDtypeStruct]:
        stacked = [
            jax.ShapeDtypeStruct((steps, *leaf.stored.shape), leaf.stored.dtype)
            for leaf in self.aux.leaves
        ]
        return [
            value,
            *(leaf.stored for leaf in self.outer_aux.leaves),
            *(leaf.stored for _, leaf in self.gradient_leaves()),
            *(leaf.stored for leaf in self.state.leaves),
            *stacked,
        ]

    def unflatten(self, results: list):
        from metagrad.frontend.metagradient import Result, ResultWithAux

        results = iter(results)
        take = lambda count: [next(results) for _ in range(count)]
        value = next(results)
        outer_aux = take(len(self.outer_aux.leaves))
        gradients = {}
        trees = {"state": self.state, "meta": self.meta, "batches": self.batches}
        for name, tree in trees.items():
            if name in self.wrt:
                gradients[name] = tree.rebuild(
                    [next(results) if leaf.is_float else float0(leaf) for leaf in tree.leaves]
                )
        state = self.state.unflatten(take(len(self.state.leaves)))
        aux = take(len(self.aux.leaves))
        grad = (
            gradients[self.wrt[0]] if self.single else tuple(gradients[name] for name in self.wrt)
        )
        if self.has_aux:
            value = value, self.outer_aux.unflatten(outer_aux)
        if self.step_has_aux:
            return ResultWithAux(value, grad, state, self.aux.unflatten(aux))
        return Result(value, grad, state)


class Lowered:
    """A metagradient lowered for given shapes. Made by `Metagradient.lower`."""

    def __init__(
        self,
        signature: Signature,
        plan: Plan,
        decisions: list[Decision],
        texts,
        program,
        diagnose,
        check_nans: bool | None,
    ):
        self._signature, self._plan, self._decisions = signature, plan, decisions
        self._texts, self._program, self._diagnose, self._check_nans = (
            texts,
            program,
            diagnose,
            check_nans,
        )
        self._compiled: Compiled | None = None

    @property
    def stages(self) -> tuple[str, ...]:
        """Names of the stages, in order; each can be given to `ir`."""
        return (*pipeline.STAGES, "hlo")

    def ir(self, stage: str) -> str:
        """The program after a stage, as text: MLIR, and for "hlo" what XLA made of it (which compiles, if that has not been done).

        Raises:
          ValueError: there is no such stage.
        """
        if stage not in self.stages:
            raise ValueError(f"no stage {stage!r}; there are {', '.join(map(repr, self.stages))}")
        return self.compile().as_text() if stage == "hlo" else self._texts[stage]

    @property
    def plan(self) -> Plan:
        """The schedule: steps run, slots held. `str()` draws it."""
        return self._plan

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """Who differentiates each function: one entry for each inner gradient, the optimiser's update and the outer function."""
        return tuple(self._decisions)

    def explain(self) -> str:
        """Which function is differentiated by whom and why, as text."""
        return "\n".join(map(str, self._decisions))

    def compile(self) -> Compiled:
        """Compiles with XLA, once."""
        if self._compiled is None:
            compiled = jax.jit(self._checked).lower(*self._signature.inputs).compile()
            self._compiled = Compiled(
                self._signature,
                self._program,
                compiled,
                self._plan,
                self._diagnose,
                self._check_nans,
            )
        return self._compiled

    def _checked(self, *inputs):
        """The program's results, and whether they have no NaN."""
        results = self._program.call(*inputs)
        if self._diagnose is None:
            return results, True
        value, first = results[:1], 1 + len(self._signature.outer_aux.leaves)
        last = first + len(self._signature.gradient_leaves())
        return results, nan_warning.is_fine(
            [*value, *results[first:last]], results[last : last + len(self._signature.state.leaves)]
        )


class Compiled:
    """A compiled metagradient: call it with arguments of the shapes that it was lowered for."""

    def __init__(
        self, signature: Signature, program, compiled, plan: Plan, diagnose, check_nans: bool | None
    ):
        self._signature, self._program, self._xla = signature, program, compiled
        self._diagnose, self._check_nans = diagnose, check_nans
        self.plan = plan

    def __call__(self, state0: Any, meta: Any, batches: Any, *outer_args: Any):
        given = (state0, meta, batches, outer_args)
        self._check(given)
        arrays = self._signature.flatten(*given)
        if any(isinstance(array, jax.core.Tracer) for array in arrays):
            return self._signature.unflatten(self._call_traced(arrays))
        flat, fine = self._xla(*arrays)
        result = self._signature.unflatten(flat)
        if self._diagnose is not None and not fine and (warning := self._diagnose(result, given)):
            # Once for each program: the search costs a training run, and descent on a metagradient calls it again and again.
            self._diagnose = None
            warnings.warn(warning, RuntimeWarning, stacklevel=_users_level())
        return result

    def _call_traced(self, arrays: list) -> list:
        if self._check_nans:
            message = "check_nans=True checks nothing under jax.jit, where there are no values yet. Call the metagradient outside of it."
            warnings.warn(message, stacklevel=_users_level())
        try:
            return self._program.call(*arrays)
        except NotImplementedError as error:
            if "Batching rule" not in str(error):
                raise
            raise NotImplementedError(
                "a metagradient cannot be put under jax.vmap. jax.lax.map takes one after the other, in one program."
            ) from None

    def _check(self, given) -> None:
        signature = self._signature
        for tree, value in zip(
            (signature.state, signature.meta, signature.batches, signature.outer), given
        ):
            if jax.tree.structure(value) != tree.structure:
                raise TypeError(
                    f"{tree.name} has the structure {jax.tree.structure(value)}, and this program was compiled for {tree.structure}"
                )
            leaves, constants = iter(tree.leaves), iter(tree.constants)
            for (path, given), is_array in zip(
                jax.tree_util.tree_flatten_with_path(value)[0], tree.is_array
            ):
                if is_array:
                    _check_array(next(leaves), given)
                elif (constant := next(constants)) is not given and not _equal(constant, given):
                    raise TypeError(
                        f"{tree.name}{jax.tree_util.keystr(path)} is {given!r}, and this program was compiled for {constant!r}"
                    )

    def memory_analysis(self):
        """XLA's memory analysis: bytes of arguments, outputs, temporaries and code."""
        return self._xla.memory_analysis()

    def cost(self):
        """XLA's cost analysis of the program. Loops are counted once, so this is no measure of the run's time."""
        return self._xla.cost_analysis()

    def as_text(self) -> str:
        """The optimised HLO."""
        return self._xla.as_text()


def _check_array(leaf: Leaf, given: Any) -> None:
    described = describe(leaf.path, given)
    if described is None:
        raise TypeError(
            f"{leaf.path} is {given!r}, and this program was compiled for {shaped(leaf.aval)}"
        )
    shape, dtype = described.aval.shape, described.aval.dtype
    if shape != leaf.aval.shape:
        raise TypeError(
            f"{leaf.path} has shape {shape}, and this program was compiled for {leaf.aval.shape}"
        )
    # A Python scalar takes the dtype that the program has, if that is of its kind or above.
    if dtype != leaf.aval.dtype and not (
        getattr(described.aval, "weak_type", False) and _rank(dtype) <= _rank(leaf.aval.dtype)
    ):
        raise TypeError(
            f"{leaf.path} is {dtype}, and this program was compiled for {leaf.aval.dtype}"
        )


def _rank(dtype) -> int:
    """Booleans below integers below floating point; keys apart."""
    kinds = (np.bool_, np.integer, np.floating, jax.dtypes.prng_key)
    return next(rank for rank, kind in enumerate(kinds) if jnp.issubdtype(dtype, kind))


def _equal(constant: Any, given: Any) -> bool:
    return (
        type(constant) is type(given) and not hasattr(constant, "dtype") and bool(constant == given)
    )


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
) -> Lowered:
    """Traces, decides who differentiates what, runs the passes and wraps the result. See `Metagradient.lower`."""
    state0, meta, batches, outer_args = arguments
    batches_tree, batch_tree, steps = tracing.batches_tree(batches)
    traced = tracing.trace_step(
        step, tree_of("state", state0), tree_of("meta", meta), batch_tree, step_has_aux
    )
    traced_outer = tracing.trace_outer(
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
    marked, found = sites.mark(traced.jaxpr)
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
        decisions, pieces, of_site = _divide(marked, found, traced_outer.jaxpr, names, active, ad)
        made = lowering.lower(
            pieces | printed(lambda traced: traced.printing), found, of_site, active, groups, wrt
        )
        if made.muted and (more := printed(lambda traced: not traced.printing)):
            # A backward rule prints, which shows only when JAX has made the backward pass.
            made = lowering.lower(
                pieces | printed(lambda traced: traced.printing) | more,
                found,
                of_site,
                active,
                groups,
                wrt,
            )
        return decisions, pipeline.run(made.module, plan), made

    try:
        decisions, texts, made = attempt(ad)
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
            stacklevel=_users_level(),
        )
        decisions, texts, made = attempt("jax")
        decisions = [dataclasses.replace(decision, why=(str(error),)) for decision in decisions]
    value = traced_outer.jaxpr.out_avals[0]
    outputs = signature.outputs(jax.ShapeDtypeStruct(value.shape, value.dtype), steps)
    program = host_calls.program(made.module, signature.inputs, outputs, made.callbacks)
    diagnose = None
    if check_nans:
        diagnose = nans.diagnosis(step, outer, step_has_aux, has_aux, wrt, single)
    elif check_nans is None:
        trees = {
            "state": signature.state,
            "meta": signature.meta,
            "batches": signature.batches,
            "outer_args": signature.outer,
        }
        diagnose = nan_warning.warning(
            traced.jaxpr, traced_outer.jaxpr, trees, active, wrt, single, has_aux
        )
    return Lowered(signature, plan, decisions, texts, program, diagnose, check_nans)


def _users_level() -> int:
    """The `stacklevel` of the first caller that is not metagrad, for a warning raised by our caller."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("metagrad."):
        level, frame = level + 1, frame.f_back
    return level


def _divide(marked, found, outer, names, active, ad):
    """Decides for each function, and has JAX make the derivatives that are its part."""
    step_name, outer_name = names
    pieces, decisions, of_site = (
        {"step": constants.hold(marked), "outer": constants.hold(outer)},
        [],
        [],
    )
    update = sites.update_of(marked, found)
    pieces["update_run"] = lowering.as_run(update)
    nested = derivatives.nested_gradients(update.jaxpr)
    if not found and not nested:
        decisions.append(
            Decision(
                f"the inner gradient of {step_name}", "expanded", ("no metagrad.grad in the step",)
            )
        )
    for site in found:
        decision = derivatives.decide_gradient(
            site, active.losses[site.index], active.gradients[site.index], ad
        )
        decisions.append(decision)
        of_site.append(_made_by_jax(site, active, decision.rule))
    decisions += nested
    parts = {"update": sites.first_results(update, len(active.state))}
    parts |= {f"inputs_{site.index}": sites.inputs_of(marked, found, site.index) for site in found}
    parts |= {"outer": sites.first_results(outer, 1)}
    for name, jaxpr in parts.items():
        label = {"update": f"the update of {step_name}", "outer": outer_name}.get(
            name, f"the inputs of {step_name}'s gradient {name[7:]}"
        )
        flags = active.of_outer(jaxpr) if name == "outer" else active.of_update(jaxpr)
        decision = derivatives.decide_first_order(label, jaxpr, flags, ad)
        if not name.startswith("inputs") or decision.rule != "enzyme":
            decisions.append(decision)
        if decision.rule != "enzyme":
            pieces[f"{name}_vjp"] = lowering.as_run(
                derivatives.vjp(jaxpr, flags, active.of_results(name), label)
            )
    return decisions, pieces, of_site


def _made_by_jax(site: sites.Site, active: activity.Activity, rule: str) -> lowering.Derivatives:
    if rule == "enzyme":
        return {}
    operands, seeds = active.losses[site.index], active.gradients[site.index]
    # Enzyme goes over this one again, so it is lowered for it; the others are only run.
    made = {"vjp": derivatives.loss_vjp(site, operands, seeds)} if rule == "jax-reverse" else {}
    if rule in ("jax", "jax-mixed"):
        product = derivatives.gradient_vjp if rule == "jax" else derivatives.gradient_vjp_mixed
        made["grad_vjp"] = lowering.as_run(product(site, operands, seeds))
    return made | {"grad": lowering.as_run(derivatives.gradient(site))}


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
