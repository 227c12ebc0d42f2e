"""Metaparameters that a step never reads.

Their gradient is zero, which is seldom what was meant: a name misspelt, a leaf of an older version.
"""

from __future__ import annotations

from collections.abc import Sequence

from jax.extend import core
from jax.interpreters import partial_eval as pe

from metagrad.compiler.dialect.metagrad import Layout
from metagrad.frontend.grad_primitive import grad_p
from metagrad.frontend.jaxprs.calls import inside
from metagrad.frontend.pytrees import Tree


def unread_leaves(step: core.ClosedJaxpr, meta: Tree, layout: Layout) -> tuple[str, ...]:
    """Paths of the floating-point leaves of meta on which no result of the step depends.

    Args:
      step: (state, meta, batch) -> (state', aux), over flat leaves.
      meta: the description of the metaparameters.
      layout: sizes of the argument groups.
    """
    read = _inputs_read(step.jaxpr, [True] * len(step.out_avals))
    of_meta = read[layout.state : layout.state + layout.meta]
    return tuple(
        leaf.path for leaf, flag in zip(meta.leaves, of_meta) if leaf.is_float and not flag
    )


def _inputs_read(jaxpr: core.Jaxpr, wanted: Sequence[bool]) -> list[bool]:
    """The inputs on which the results `wanted` depend.

    JAX's dead code elimination with one rule more: a gradient reads what its loss reads. (Its
    operands are all that the loss is called with.)
    """
    needed = {
        atom for atom, flag in zip(jaxpr.outvars, wanted) if flag and isinstance(atom, core.Var)
    }
    for eqn in reversed(jaxpr.eqns):
        results = [var in needed for var in eqn.outvars]
        if any(results) or eqn.effects:
            needed |= _variables_read(jaxpr, eqn, results)
    return [var in needed for var in jaxpr.invars]


def _variables_read(jaxpr: core.Jaxpr, eqn: core.JaxprEqn, results: list[bool]) -> set[core.Var]:
    """The variables on which the results of an equation of `jaxpr` depend that are wanted."""
    if eqn.primitive is grad_p:
        loss = eqn.params["jaxpr"].jaxpr
        outputs = len(loss.outvars)
        value = results[0] or any(results[outputs:])
        read = _inputs_read(loss, [value, *results[1:outputs]])
        return {atom for atom, flag in zip(eqn.invars, read) if flag and isinstance(atom, core.Var)}
    operands = list(dict.fromkeys(atom for atom in eqn.invars if isinstance(atom, core.Var)))
    if eqn.effects or not any(True for _ in inside(eqn)):
        return set(operands)
    # JAX is asked about a function that is this equation alone: its rules' signatures are private.
    alone = jaxpr.replace(
        constvars=[],
        invars=operands,
        outvars=eqn.outvars,
        eqns=[eqn],
        debug_info=jaxpr.debug_info.with_unknown_names(),
    )
    read = pe.dce_jaxpr(alone, results)[1]
    return {operand for operand, flag in zip(operands, read) if flag}
