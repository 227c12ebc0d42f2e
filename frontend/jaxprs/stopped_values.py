"""Marks the equations whose derivative nobody reads, so that they are lowered as the plain values that they are.

    m = reduce_max(a); s = stop_gradient(m); e = exp(a - s)         the derivative of reduce_max is never asked for

The exact lowerings (exact_lowerings/) carry a derivative along beside the value.  The maximum inside every softmax and logsumexp is stopped, so what it
carries would be work for nothing: a walk from the results backward finds such equations and replaces them by the value alone.
"""

from __future__ import annotations

import jax
from jax.extend import core
from jax.extend.core import primitives

from metagrad.frontend import capabilities
from metagrad.frontend.exact_lowerings import value_and_derivative
from metagrad.frontend.jaxprs.cotangent_flow import reaching
from metagrad.frontend.split_step import bind, where

_CALLS = {primitives.jit_p}


def hold(closed: core.ClosedJaxpr) -> core.ClosedJaxpr:
    """The same function, equations without a read derivative replaced by `exact_lowerings.values.value` of them."""
    rewritten = jax.make_jaxpr(
        lambda *args: _evaluate(closed, [True] * len(closed.out_avals), args)
    )(*closed.in_avals)
    return rewritten


def _evaluate(closed: core.ClosedJaxpr, wanted_results: list[bool], args) -> list:
    jaxpr = closed.jaxpr
    wanted = reaching(jaxpr, wanted_results)
    env = dict(zip(jaxpr.constvars, closed.consts)) | dict(zip(jaxpr.invars, args))
    read = lambda atom: atom.val if isinstance(atom, core.Literal) else env[atom]
    for eqn in jaxpr.eqns:
        operands = [read(atom) for atom in eqn.invars]
        results_wanted = [var in wanted for var in eqn.outvars]
        with where(eqn):
            if eqn.primitive in _CALLS and _stops(eqn.params["jaxpr"].jaxpr, results_wanted):
                results = _evaluate(eqn.params["jaxpr"], results_wanted, operands)
            elif not any(results_wanted) and _carries(eqn):
                results = value_and_derivative.value(eqn.primitive, *operands, **eqn.params)
                results = results if eqn.primitive.multiple_results else [results]
            else:
                results = bind(eqn, operands)
        env.update(zip(eqn.outvars, results))
    return [read(atom) for atom in jaxpr.outvars]


def _stops(jaxpr: core.Jaxpr, wanted_results: list[bool]) -> bool:
    """Whether anything in a called function would be replaced; where nothing is, the call stays a call."""
    wanted = reaching(jaxpr, wanted_results)
    return any(
        (not any(var in wanted for var in eqn.outvars) and _carries(eqn))
        or (
            eqn.primitive in _CALLS
            and _stops(eqn.params["jaxpr"].jaxpr, [var in wanted for var in eqn.outvars])
        )
        for eqn in jaxpr.eqns
    )


def _carries(eqn) -> bool:
    """Whether the table gives this equation a lowering that carries a derivative."""
    capability = capabilities.CAPABILITIES.get(eqn.primitive)
    return capability is not None and (capability.lowering is not None or capability.by_rule)
