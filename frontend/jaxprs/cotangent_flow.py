"""From which variables of a jaxpr a derivative reaches the results that are asked for: the walk back to capabilities.active_results' walk forth."""

from __future__ import annotations

from collections.abc import Sequence

from jax.extend import core
from jax.extend.core import primitives

from metagrad.frontend.capabilities import WITHOUT_DERIVATIVE
from metagrad.frontend.exact_lowerings.value_and_derivative import is_complex, is_float

ENDS = {primitives.stop_gradient_p, *WITHOUT_DERIVATIVE}
"""Primitives through which no derivative passes."""

CALLS = {
    primitives.jit_p: "jaxpr",
    primitives.closed_call_p: "call_jaxpr",
    primitives.remat_p: "jaxpr",
}
"""Primitives that call a function, and the parameter that holds it."""


def reaching(jaxpr: core.Jaxpr, wanted: Sequence[bool]) -> set[core.Var]:
    """The variables from which a derivative reaches a wanted result.

    What is only compared, stopped or rounded is not among them: JAX has no cotangent there, not even a zero that could meet an infinity further up.  Custom
    rules and `while_loop`s are taken whole, which errs on the side of too many.
    """
    found = _differentiable(jaxpr.outvars, wanted)
    for eqn in reversed(jaxpr.eqns):
        results = [var in found for var in eqn.outvars]
        if any(results) and eqn.primitive not in ENDS:
            found |= _differentiable(eqn.invars, _operands(eqn, results))
    return found


def reaching_inputs(jaxpr: core.Jaxpr, wanted: Sequence[bool]) -> list[bool]:
    """For each input, whether it is among them."""
    found = reaching(jaxpr, wanted)
    return [var in found for var in jaxpr.invars]


def _operands(eqn: core.JaxprEqn, results: list[bool]) -> list[bool]:
    if eqn.primitive in CALLS:
        called = eqn.params[CALLS[eqn.primitive]]
        return reaching_inputs(getattr(called, "jaxpr", called), results)
    if eqn.primitive is primitives.cond_p:
        branches = [reaching_inputs(branch.jaxpr, results) for branch in eqn.params["branches"]]
        return [False, *map(any, zip(*branches))]
    if eqn.primitive is primitives.scan_p:
        return _scan_operands(eqn, results)
    return [True] * len(eqn.invars)


def _scan_operands(eqn: core.JaxprEqn, results: list[bool]) -> list[bool]:
    body, constants, carried = (
        eqn.params["jaxpr"].jaxpr,
        eqn.params["num_consts"],
        eqn.params["num_carry"],
    )
    carry, stacked = results[:carried], results[carried:]
    while True:
        inputs = reaching_inputs(body, [*carry, *stacked])
        grown = [a or b for a, b in zip(carry, inputs[constants:])]
        if grown == carry:
            return [*inputs[:constants], *carry, *inputs[constants + carried :]]
        carry = grown


def _differentiable(atoms, flags) -> set[core.Var]:
    return {
        atom
        for atom, flag in zip(atoms, flags)
        if flag and isinstance(atom, core.Var) and (is_float(atom.aval) or is_complex(atom.aval))
    }
