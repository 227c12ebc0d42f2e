"""From which variables of a jaxpr a derivative reaches the results that are asked for: the walk back to capabilities.active_results' walk forth."""

from __future__ import annotations

from collections.abc import Sequence

from jax._src import core
from jax.extend.core import primitives

from metagrad.frontend.capabilities import WITHOUT_DERIVATIVE
from metagrad.frontend.exact_lowerings.values import is_complex, is_float

_ENDS = {primitives.stop_gradient_p, *WITHOUT_DERIVATIVE}


def reaching(jaxpr: core.Jaxpr, wanted: Sequence[bool]) -> set[core.Var]:
    """The variables from which a derivative reaches a wanted result.

    What is only compared, stopped or rounded is not among them.  Loops, branches and custom rules are taken whole, which errs on the side of too many.
    """
    found = _differentiable(jaxpr.outvars, wanted)
    for eqn in reversed(jaxpr.eqns):
        results = [var in found for var in eqn.outvars]
        if any(results) and eqn.primitive not in _ENDS:
            found |= _differentiable(eqn.invars, _operands(eqn, results))
    return found


def reaching_inputs(jaxpr: core.Jaxpr, wanted: Sequence[bool]) -> list[bool]:
    """For each input, whether it is among them."""
    found = reaching(jaxpr, wanted)
    return [var in found for var in jaxpr.invars]


def _operands(eqn: core.JaxprEqn, results: Sequence[bool]) -> Sequence[bool]:
    if eqn.primitive is primitives.jit_p:
        return reaching_inputs(eqn.params["jaxpr"].jaxpr, results)
    return [True] * len(eqn.invars)


def _differentiable(atoms, flags) -> set[core.Var]:
    return {atom for atom, flag in zip(atoms, flags) if flag and isinstance(atom, core.Var) and (is_float(atom.aval) or is_complex(atom.aval))}
