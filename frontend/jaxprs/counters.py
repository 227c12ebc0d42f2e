"""Which leaves of the state are counters, and the function that advances them.

A counter is a small leaf of integers or booleans whose new value is made of counters, of leaves
that no step changes and of metaparameters, by arithmetic on small integers: `count + 1`, optax's
`count` (which stops at the largest integer), the two counters of `optax.MultiSteps`, a flag that is
flipped. Its values at all steps can be had without training, so the program makes a table of them
(compiler/passes/schedule_state.py) and stores them in no slot.

Not among them, on purpose:

- floating-point leaves. A value that another program computes may be rounded otherwise, and the
  training run is the user's, bit for bit.
- keys, which take 8 or 16 bytes of a slot. A table has a row for each step, and each row would
  cost the random number generator one more call.
- what is made by anything but arithmetic on few numbers (a `while_loop`, a call of the host, a
  large array): a row of a table should cost a few scalar operations.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import jax
import numpy as np
from jax.extend import core
from jax.extend.core import jaxpr_as_fun, primitives
from jax.interpreters import partial_eval as pe

from metagrad.compiler.dialect.metagrad import Layout
from metagrad.frontend.jaxprs.calls import Body, call
from metagrad.frontend.jaxprs.forward import Memo, forward, through_body

LARGEST = 16
"""The most entries that a counter, or a value on the way to it, may have."""

_NAMES = """
abs add and clamp copy copy_p div eq ge gt integer_pow le lt max min mul ne neg not
optimization_barrier or population_count pow rem select_n shift_left shift_right_arithmetic
shift_right_logical sign square stop_gradient sub xor
argmax argmin cummax cummin cumsum reduce_and reduce_max reduce_min reduce_or reduce_sum
broadcast_in_dim concatenate convert_element_type dynamic_slice dynamic_update_slice
expand_dims gather iota pad reshape rev slice split squeeze transpose
"""
ARITHMETIC = frozenset(_NAMES.split())
"""The primitives that a counter may be made by, beside calls, branches and scans."""


@dataclasses.dataclass(frozen=True)
class Counters:
    """The counters of a state.

    Attributes:
      leaves: which leaves of the state they are, by index and ascending.
      advance: (state, meta) -> the new values of these leaves.
    """

    leaves: tuple[int, ...]
    advance: core.ClosedJaxpr


def find_counters(
    step: core.ClosedJaxpr, layout: Layout, unchanged: Sequence[int]
) -> Counters | None:
    """The counters of a step's state; None if there are none.

    Args:
      step: the step over flat leaves (state, meta, batch), its gradients marked.
      layout: how many leaves each of these groups has.
      unchanged: the leaves of the state that the step returns as they came.
    """
    known = {*unchanged, *layout.arguments("meta")}
    counters = {i for i in range(layout.state) if i not in known and _small(step.in_avals[i])}
    while counters:
        operands = [i in known or i in counters for i in range(layout.step)]
        countable = _countable(step.jaxpr, operands, {})
        kept = {i for i in counters if countable[i]}
        if kept == counters:
            return _advancing(step, layout, sorted(counters), known | counters)
        counters = kept
    return None


def _advancing(
    step: core.ClosedJaxpr, layout: Layout, leaves: list[int], readable: set[int]
) -> Counters | None:
    wanted = [i in set(leaves) for i in range(len(step.out_avals))]
    jaxpr, used = pe.dce_jaxpr(step.jaxpr, wanted)
    read = [i for i, flag in enumerate(used) if flag]
    if not readable.issuperset(read):
        return None  # JAX's elimination kept more of a loop or a branch than the results need.
    alone = jaxpr_as_fun(core.ClosedJaxpr(jaxpr, step.consts))
    avals = step.in_avals[: layout.state + layout.meta]
    return Counters(
        tuple(leaves), jax.make_jaxpr(lambda *args: alone(*(args[i] for i in read)))(*avals)
    )


def _small(aval) -> bool:
    dtype = getattr(aval, "dtype", None)
    is_integer = jax.dtypes.issubdtype(dtype, np.integer) or jax.dtypes.issubdtype(dtype, np.bool_)
    return is_integer and math.prod(aval.shape) <= LARGEST


def _countable(jaxpr: core.Jaxpr, operands: Sequence[bool], memo: Memo) -> list[bool]:
    """For each result, whether it is made of the flagged operands alone, as a counter may be."""
    equation = lambda eqn, flags: _equation(eqn, flags, memo)
    return forward(jaxpr, operands, equation, lambda _: True, False, memo)


def _equation(eqn: core.JaxprEqn, operands: list[bool], memo: Memo) -> list[bool]:
    flags = [_small(var.aval) for var in eqn.outvars]
    called = call(eqn)
    if called is None:
        is_arithmetic = eqn.primitive.name in ARITHMETIC
        return [flag and is_arithmetic and all(operands) for flag in flags]
    chosen = eqn.primitive is not primitives.cond_p or operands[0]
    if called.has_rule or eqn.primitive is primitives.while_p or not chosen:
        return [False] * len(flags)
    for body in called.bodies:
        for i, flag in zip(body.results, _of_body(body, operands, memo)):
            flags[i] = flags[i] and flag
    return flags


def _of_body(body: Body, operands: Sequence[bool], memo: Memo) -> list[bool]:
    inputs = [operands[i] for i in body.operands]
    results = lambda jaxpr, flags: _countable(jaxpr, flags, memo)
    return through_body(body, inputs, results, False)
