"""From which variables of a jaxpr a derivative reaches the wanted results.

This walks backward; `capabilities.active_results` walks forward.
"""

from __future__ import annotations

from collections.abc import Sequence

from jax.extend import core
from jax.extend.core import primitives

from metagrad.frontend.capabilities import WITHOUT_DERIVATIVE
from metagrad.frontend.dtypes import is_complex, is_float
from metagrad.frontend.jaxprs.calls import Body, call

ENDS = {primitives.stop_gradient_p, *WITHOUT_DERIVATIVE}
"""Primitives through which no derivative passes."""


def reaching(jaxpr: core.Jaxpr, wanted: Sequence[bool]) -> set[core.Var]:
    """The variables from which a derivative reaches a wanted result.

    What is only compared, stopped or rounded is not among them: JAX has no cotangent there, not
    even a zero that could meet an infinity further up. Custom rules and `while_loop`s are taken
    whole, so there may be too many, never too few.
    """
    reached = _differentiable(jaxpr.outvars, wanted)
    for eqn in reversed(jaxpr.eqns):
        results = [var in reached for var in eqn.outvars]
        if any(results) and eqn.primitive not in ENDS:
            reached |= _differentiable(eqn.invars, _operands(eqn, results))
    return reached


def reaching_inputs(jaxpr: core.Jaxpr, wanted: Sequence[bool]) -> list[bool]:
    """For each input, whether it is among them."""
    reached = reaching(jaxpr, wanted)
    return [var in reached for var in jaxpr.invars]


def _operands(eqn: core.JaxprEqn, results: list[bool]) -> list[bool]:
    """The operands from which a derivative reaches one of these results."""
    called = call(eqn)
    if called is None or called.has_rule or eqn.primitive is primitives.while_p:
        return [True] * len(eqn.invars)
    operands = [False] * len(eqn.invars)
    for body in called.bodies:
        for operand, flag in zip(body.operands, _inputs(body, results)):
            operands[operand] |= flag
    return operands


def _inputs(body: Body, results: list[bool]) -> list[bool]:
    wanted = [results[i] for i in body.results]
    while True:
        inputs = reaching_inputs(body.jaxpr.jaxpr, wanted)
        grown = list(wanted)
        for output, into in body.carry:
            grown[output] |= inputs[into]
            inputs[into] |= grown[output]
        if grown == wanted:
            return inputs
        wanted = grown


def _differentiable(atoms, flags) -> set[core.Var]:
    return {
        atom
        for atom, flag in zip(atoms, flags)
        if flag and isinstance(atom, core.Var) and (is_float(atom.aval) or is_complex(atom.aval))
    }
