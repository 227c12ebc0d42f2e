"""An analysis that follows what is known of values forward through a jaxpr, its loops included.

What is known of a value is anything that can be hashed and compared (a flag, say); `unknown` says
that nothing is. The analysis gives the rule for an equation, and calls `through_body` for one that
has functions.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

from jax.extend import core

from metagrad.frontend.jaxprs.calls import Body

Memo = dict[tuple[core.Jaxpr, tuple], list]
"""What is known of results of functions that were met: a function may be called often."""


def forward(
    jaxpr: core.Jaxpr,
    operands: Sequence,
    equation: Callable[[core.JaxprEqn, list], Sequence],
    literal: Callable[[Any], Hashable],
    unknown: Hashable,
    memo: Memo,
) -> list:
    """What is known of the results of a function. Of its constants nothing is.

    Args:
      operands: what is known of each input.
      equation: (equation, what is known of its operands) -> what is known of its results.
      literal: what is known of a literal's value.
    """
    key = jaxpr, tuple(operands)
    if key not in memo:
        env: dict[core.Var, Any] = dict(zip(jaxpr.invars, operands))

        def read(atom):
            return literal(atom.val) if isinstance(atom, core.Literal) else env.get(atom, unknown)

        for eqn in jaxpr.eqns:
            env.update(zip(eqn.outvars, equation(eqn, [read(atom) for atom in eqn.invars])))
        memo[key] = [read(atom) for atom in jaxpr.outvars]
    return memo[key]


def through_body(
    body: Body, inputs: list, results: Callable[[core.Jaxpr, list], list], unknown: Hashable
) -> list:
    """What is known of the results of one function of a call; of a loop's body, after all turns.

    Of a carried value is known what holds before the first turn and after each.

    Args:
      inputs: what is known of the inputs before the first turn; what does not last is forgotten.
      results: `forward` of the analysis, as a function of a jaxpr and its operands.
    """
    while True:
        outputs = list(results(body.jaxpr.jaxpr, inputs))
        lost = [i for output, i in body.carry if inputs[i] not in (unknown, outputs[output])]
        if not lost:
            break
        for i in lost:
            inputs[i] = unknown
    for output, i in body.carry:
        outputs[output] = inputs[i]
    return outputs
