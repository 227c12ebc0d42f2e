"""Replaces equations whose derivative nobody reads by their values alone.

    m = reduce_max(a); s = stop_gradient(m); e = exp(a - s)     reduce_max's derivative is not read

The exact lowerings (exact_lowerings/) carry a derivative along beside the value. The maximum inside
every softmax and logsumexp is stopped, so its derivative would be work for nothing. A walk backward
from the results finds such equations and replaces them by the value alone.
"""

from __future__ import annotations

import jax
from jax.extend import core

from metagrad.frontend import capabilities
from metagrad.frontend.exact_lowerings import value_and_derivative
from metagrad.frontend.jaxprs.calls import plain
from metagrad.frontend.jaxprs.cotangent_flow import reaching
from metagrad.frontend.jaxprs.hi_primitives import low
from metagrad.frontend.jaxprs.interpret import interpret


def drop_unread_derivatives(closed: core.ClosedJaxpr) -> core.ClosedJaxpr:
    """The same function.

    Equations whose derivative is not read are replaced by `value_and_derivative.value` of them.
    """
    wanted = [True] * len(closed.out_avals)
    if not _stops(closed.jaxpr, wanted):
        return low(closed)
    return low(jax.make_jaxpr(lambda *args: _evaluate(closed, wanted, args))(*closed.in_avals))


def _evaluate(closed: core.ClosedJaxpr, wanted_results: list[bool], args) -> list:
    wanted = reaching(closed.jaxpr, wanted_results)

    def rule(eqn, operands):
        results_wanted = [var in wanted for var in eqn.outvars]
        called = plain(eqn)
        if called is not None and _stops(called.jaxpr, results_wanted):
            return _evaluate(called, results_wanted, operands)
        if any(results_wanted) or not _carries(eqn):
            return None
        results = value_and_derivative.value(eqn.primitive, *operands, **eqn.params)
        return results if eqn.primitive.multiple_results else [results]

    return interpret(closed, args, rule)


def _stops(jaxpr: core.Jaxpr, wanted_results: list[bool]) -> bool:
    """Whether anything in a called function would be replaced; if nothing is, the call stays a
    call.
    """
    wanted = reaching(jaxpr, wanted_results)

    def stops(eqn) -> bool:
        results_wanted = [var in wanted for var in eqn.outvars]
        called = plain(eqn)
        return (not any(results_wanted) and _carries(eqn)) or (
            called is not None and _stops(called.jaxpr, results_wanted)
        )

    return any(map(stops, jaxpr.eqns))


def _carries(eqn) -> bool:
    """Whether the table gives this equation a lowering that carries a derivative."""
    capability = capabilities.CAPABILITIES.get(eqn.primitive)
    return capability is not None and (capability.lowering is not None or bool(capability.by_rule))
