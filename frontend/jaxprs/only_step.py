"""The step of a run of one step: what the outer function does not read of the state is stopped.

In a longer run the next step may read it. The loop over the steps hands on a cotangent then, which
is a zero after the last step. After an only step JAX has no cotangent there, not even a zero that
could meet an infinite derivative further up.
"""

from __future__ import annotations

import jax
from jax.extend import core

from metagrad.frontend.dtypes import is_complex, is_float
from metagrad.frontend.exact_lowerings.value_and_derivative import stopped
from metagrad.frontend.jaxprs.cotangent_flow import reaching_inputs
from metagrad.frontend.jaxprs.interpret import interpret


def stop_unread_state(
    step: core.ClosedJaxpr, outer: core.ClosedJaxpr, count: int
) -> core.ClosedJaxpr:
    """The step, its new leaves stopped from which no derivative reaches the outer value.

    Args:
      step: (state, meta, batch) -> (state', aux).
      outer: (state, outer arguments) -> (value, aux).
      count: how many leaves the state has.
    """
    of_value = [i == 0 for i in range(len(outer.out_avals))]
    read = reaching_inputs(outer.jaxpr, of_value)[:count]
    unread = [
        not reached and (is_float(aval) or is_complex(aval))
        for aval, reached in zip(step.out_avals, read)
    ]
    if not any(unread):
        return step

    def stopping(*operands):
        results = interpret(step, operands, lambda eqn, operands: None)
        state = [stopped(leaf) if stop else leaf for leaf, stop in zip(results, unread)]
        return [*state, *results[count:]]

    return jax.make_jaxpr(stopping)(*step.in_avals)
