"""Custom rules over arrays whose types have shardings, as rules over arrays without.

JAX traces a rule when a derivative is taken, for the types that its function was traced with. So
each rule here traces the user's in the mesh that the user wrote it for, and then takes the
shardings out of what was traced (auto_axes.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.extend import core, linear_util
from jax.interpreters import ad

from metagrad.runtime.jax_internals import cotangents_of_rule

AutoAxes = Callable[[core.ClosedJaxpr], core.ClosedJaxpr]
"""A function over arrays without shardings in their types."""


def of_custom_jvp(eqn: core.JaxprEqn, with_auto_axes: AutoAxes) -> dict[str, Any]:
    """The parameters of a `custom_jvp_call` that change."""
    rule, mesh = eqn.params["jvp_jaxpr_fun"], eqn.ctx.cur_abstract_mesh

    def traced(*zeros):
        with jax.sharding.use_abstract_mesh(mesh):
            jaxpr, consts, *rest = rule.call_wrapped(*zeros)
        closed = with_auto_axes(core.ClosedJaxpr(jaxpr, consts))
        return closed.jaxpr, closed.consts, *rest

    return {"jvp_jaxpr_fun": _like(rule, traced)}


def of_custom_vjp(eqn: core.JaxprEqn, with_auto_axes: AutoAxes) -> dict[str, Any]:
    """The parameters of a `custom_vjp_call` that change."""
    forward, backward = eqn.params["fwd_jaxpr_thunk"], eqn.params["bwd"]
    mesh = eqn.ctx.cur_abstract_mesh
    typed_results: list[Any] = []
    """Of the rule's first half: the residuals that are no operands, and then the results."""

    def traced(*zeros):
        with jax.sharding.use_abstract_mesh(mesh):
            jaxpr, consts = forward.call_wrapped(*zeros)
        typed_results[:] = [var.aval for var in jaxpr.outvars]
        closed = with_auto_axes(core.ClosedJaxpr(jaxpr, consts))
        return closed.jaxpr, closed.consts

    def pulled_back(*operands):
        _, _, forwarded = eqn.params["out_trees"]()
        own = iter(typed_results)
        residuals = [next(own) if i is None else eqn.invars[i].aval for i in forwarded]
        cotangents = [var.aval.to_tangent_aval() for var in eqn.outvars]
        return _pulled_back(backward, mesh, [*residuals, *cotangents], operands, with_auto_axes)

    changed = {"fwd_jaxpr_thunk": _like(forward, traced), "bwd": _like(backward, pulled_back)}
    return {} if eqn.params["symbolic_zeros"] else changed


def _pulled_back(
    rule: linear_util.WrappedFun,
    mesh: Any,
    typed: Sequence[Any],
    operands: Sequence[Any],
    with_auto_axes: AutoAxes,
) -> Any:
    """What a backward rule that is written for the types `typed` returns for `operands`.

    A cotangent that the user's rule leaves out stays one that is absent.
    """
    absent: dict[int, ad.Zero] = {}
    returned: list[Callable] = []

    def present(*args):
        results, as_returned = cotangents_of_rule(rule.call_wrapped(*args))
        returned.append(as_returned)
        absent.update({i: x for i, x in enumerate(results) if isinstance(x, ad.Zero)})
        return [x for i, x in enumerate(results) if i not in absent]

    with jax.sharding.use_abstract_mesh(mesh):
        closed = jax.make_jaxpr(present)(*typed)
    results = iter(core.jaxpr_as_fun(with_auto_axes(closed))(*operands))
    cotangents = [
        ad.Zero(_plain(absent[i].aval)) if i in absent else next(results)
        for i in range(len(closed.out_avals) + len(absent))
    ]
    return returned[-1](cotangents)


def _plain(aval: Any) -> Any:
    return jax.core.ShapedArray(aval.shape, aval.dtype)


def _like(rule: linear_util.WrappedFun, function: Callable) -> linear_util.WrappedFun:
    return linear_util.wrap_init(function, debug_info=rule.debug_info)
