"""Puts JAX's own derivative in the place of each inner gradient, in loops and branches too.

For what looks at a step, or differentiates it, as if the user had written `jax.grad`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
from jax.extend import core

from metagrad.frontend.grad_primitive import EXPANSIONS
from metagrad.frontend.jaxprs.calls import call, map_functions
from metagrad.frontend.jaxprs.interpret import bind, equations, interpret


def expand_gradients(closed: core.ClosedJaxpr) -> core.ClosedJaxpr:
    """The same function without `metagrad_grad`.

    Functions with a custom rule are left as they are: their derivative is in the rule.
    """
    if not any(eqn.primitive in EXPANSIONS for eqn in equations(closed.jaxpr)):
        return closed
    return jax.make_jaxpr(lambda *args: interpret(closed, args, _expand))(*closed.in_avals)


def _expand(eqn: core.JaxprEqn, operands: Sequence[Any]) -> list | None:
    if eqn.primitive in EXPANSIONS:
        # The gradients inside first. So no rule for the gradient of a gradient is needed.
        loss = expand_gradients(eqn.params["jaxpr"])
        return list(EXPANSIONS[eqn.primitive](*operands, **(eqn.params | {"jaxpr": loss})))
    called = call(eqn)
    if called is None or called.has_rule:
        return None
    params = map_functions(eqn.params, expand_gradients)
    return None if params is eqn.params else bind(eqn.replace(params=params), operands)
