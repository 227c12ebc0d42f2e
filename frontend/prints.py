"""`jax.debug.print` in a step and in the outer function.

It prints once for each step that is run, and never from a derivative.

What a step prints is a separate function, @prints: the plain step as JAX runs it, reduced to its
prints and what they need. The program calls it beside each step that it runs; the step itself, its
inner gradients and all their derivatives are silent. So printing changes no result, Enzyme never
meets a print, and a step prints what it prints when it is called by itself (in the backward rule of
a `custom_vjp` function inside a loss as well).

The price is that a printed value is computed twice: printing the loss costs one more forward pass
in each step that is run, printing its gradient one more gradient.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence

import jax
from jax.extend import core, source_info_util
from jax.extend.core import Primitive, jaxpr_as_fun
from jax.interpreters import batching, mlir
from jax.interpreters import partial_eval as pe

from metagrad.frontend.exact_lowerings import value_and_derivative
from metagrad.frontend.jaxprs.calls import inside, map_functions
from metagrad.frontend.jaxprs.interpret import equations
from metagrad.runtime import jax_internals
from metagrad.runtime.jax_internals import (
    RefEffect,
    debug_callback_p,
    debug_effect,
    debug_print_p,
    io_callback_p,
)

prints_inside_p = Primitive("metagrad_prints_inside")
"""Stands for the prints of an inner gradient, whose loss is kept without them.

So the step is known to print.
"""
prints_inside_p.multiple_results = True
prints_inside_p.def_effectful_abstract_eval(lambda: ([], {debug_effect}))
prints_inside_p.def_impl(list)
mlir.register_lowering(prints_inside_p, lambda ctx: [])


MUTED = (debug_print_p, debug_callback_p, io_callback_p)
"""The primitives that `mute` overrides."""


def prints(jaxpr: core.ClosedJaxpr) -> bool:
    return debug_effect in jaxpr.effects


def check_effects(jaxpr: core.ClosedJaxpr, what: str) -> None:
    """Refuses all effects that are not unordered prints.

    Raises:
      TypeError: there is one; the message calls the function `what` and has the user's line.
      NotImplementedError: it is one on a mutable reference, which JAX would differentiate.
    """
    offending = list(_other_effects(jaxpr.jaxpr))
    line = lambda eqn: f"{eqn.primitive.name} at {source_info_util.summarize(eqn.source_info)}"
    if references := [
        line(eqn)
        for eqn in offending
        if eqn.primitive.name == "new_ref"
        or any(isinstance(effect, RefEffect) for effect in eqn.effects)
    ]:
        raise NotImplementedError(
            f"{what} uses a mutable reference (jax.new_ref): "
            f"{'; '.join(dict.fromkeys(references))}. metagrad does not differentiate through "
            "references; pass the values on, as a lax.scan does its carry."
        )
    if offending:
        raise _refusal(what, list(map(line, offending)))


def _other_effects(jaxpr: core.Jaxpr) -> Iterator[core.JaxprEqn]:
    """The innermost equations with effects that are not unordered prints."""
    for eqn in equations(jaxpr, into=lambda eqn: bool(eqn.effects)):
        is_print = eqn.primitive is debug_print_p and not eqn.params["ordered"]
        is_other = eqn.effects and not is_print and eqn.primitive is not prints_inside_p
        if is_other and not any(inner.effects for inner in inside(eqn)):
            yield eqn


def silence(jaxpr: core.ClosedJaxpr) -> core.ClosedJaxpr:
    """The jaxpr without its prints, and without what only they needed."""
    if not prints(jaxpr):
        return jaxpr
    silent, _ = pe.dce_jaxpr(_without(jaxpr.jaxpr), [True] * len(jaxpr.out_avals), instantiate=True)
    return core.ClosedJaxpr(silent, jaxpr.consts)


def without(function: Callable) -> Callable:
    """The function, silent."""

    @functools.wraps(function)
    def silent(*args):
        jaxpr, results = jax.make_jaxpr(function, return_shape=True)(*args)
        return jax.tree.unflatten(
            jax.tree.structure(results), jaxpr_as_fun(silence(jaxpr))(*jax.tree.leaves(args))
        )

    return silent


def _without(jaxpr: core.Jaxpr) -> core.Jaxpr:
    eqns = []
    for eqn in jaxpr.eqns:
        if eqn.primitive in (debug_print_p, prints_inside_p):
            continue
        if debug_effect in eqn.effects:
            params = map_functions(
                eqn.params, lambda f: core.ClosedJaxpr(_without(f.jaxpr), f.consts)
            )
            eqn = eqn.replace(params=params, effects=eqn.effects - {debug_effect})
        eqns.append(eqn)
    return jaxpr.replace(eqns=eqns, effects=jaxpr.effects - {debug_effect})


def only(jaxpr: core.ClosedJaxpr) -> core.ClosedJaxpr | None:
    """(operands) -> (): the prints of a function and what they need. None if it does not print."""
    if not prints(jaxpr):
        return None
    kept, _ = pe.dce_jaxpr(jaxpr.jaxpr, [False] * len(jaxpr.out_avals), instantiate=True)
    return as_printed(core.ClosedJaxpr(kept, jaxpr.consts))


as_printed_p = jax_internals.keep_when_lowered(Primitive("metagrad_as_printed"))
as_printed_p.multiple_results = True


@as_printed_p.def_effectful_abstract_eval
def _as_printed_shapes(*avals, jaxpr):
    return [], {debug_effect}


def as_printed(jaxpr: core.ClosedJaxpr) -> core.ClosedJaxpr:
    """A jaxpr that is lowered as JAX lowers it, prints included.

    Everywhere else prints are silent (emit_mlir.py).
    """
    return jax.make_jaxpr(lambda *args: as_printed_p.bind(*args, jaxpr=jaxpr))(*jaxpr.in_avals)


def _lower_as_printed(ctx: mlir.LoweringRuleContext, *operands, jaxpr: core.ClosedJaxpr):
    ctx = ctx.replace(module_context=value_and_derivative.without_overrides(ctx.module_context))
    return mlir.lower_fun(jaxpr_as_fun(jaxpr))(ctx, *operands)


def _batch_as_printed(operands, axes, *, jaxpr: core.ClosedJaxpr):
    """Each entry along the mapped axis prints its own."""
    batched = jax.make_jaxpr(jax.vmap(jaxpr_as_fun(jaxpr), in_axes=list(axes)))(*operands)
    return as_printed_p.bind(*operands, jaxpr=batched), []


mlir.register_lowering(as_printed_p, _lower_as_printed)
batching.primitive_batchers[as_printed_p] = _batch_as_printed


def mute(muted_formats: list[str]) -> tuple:
    """Overrides of the lowering of effects in a derivative.

    A print is dropped and its format added to `muted_formats`; other effects are refused.

    What a step does by itself is found when it is traced. A backward rule is traced when JAX makes
    the backward pass, and shows its effects here.
    """

    def lower_print(ctx, *operands, fmt, ordered, **_):
        if ordered:
            refuse(ctx)
        muted_formats.append(fmt)
        return []

    def refuse(ctx, *_, **__):
        where = source_info_util.summarize(
            source_info_util.SourceInfo(ctx.traceback, ctx.name_stack)
        )
        raise _refusal(
            "a backward rule in the training step or the outer function",
            [f"{ctx.primitive.name} at {where}"],
        )

    return (debug_print_p, lower_print), (debug_callback_p, refuse), (io_callback_p, refuse)


def _refusal(what: str, lines: Sequence[str]) -> TypeError:
    """The error for effects that are not prints, or that are prints in order.

    `lines` say which, and where.
    """
    listed = "; ".join(dict.fromkeys(lines))
    if all(line.startswith(debug_print_p.name) for line in lines):
        return TypeError(
            f"{what} prints with ordered=True: {listed}. A metagradient runs steps several times "
            "and in another order, so the order cannot be kept; use jax.debug.print(...) without "
            "ordered=True."
        )
    return TypeError(
        f"{what} has side effects, from jax.debug.callback, io_callback or the like: {listed}. "
        "A metagradient runs steps several times and in another order, so they are refused; return "
        "what you want to see as aux instead (has_aux=True), or use jax.debug.print(...) without "
        "ordered=True."
    )
