"""Which leaves of the state every step returns as they came: a dataset, frozen weights, a mask.

Such a leaf has the value of the initial state at every step. The program reads it there, and does
not store it in slots. This is about values only: a cotangent of such a leaf is summed up from step
to step like that of a metaparameter.

The values of a jaxpr are followed forward from its inputs, through calls, branches and loops:

    jit, cond, custom rules     what the function, or each of the branches, returns as it came
    scan, while                 a carry that every turn hands on; rows that every turn writes where
                                it read them
    x + 0, x - 0, x * 1, x / 1  x, as XLA has it: optax.set_to_zero and optax.apply_updates leave
                                frozen weights so
    a cast and its inverse      the value before, if the dtype between holds all values of it
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.extend import core

from metagrad.frontend import dtypes
from metagrad.frontend.grad_primitive import grad_p
from metagrad.frontend.jaxprs.calls import Body, call
from metagrad.frontend.jaxprs.forward import Memo, forward, through_body
from metagrad.frontend.split_step import site_p


def unchanged_leaves(step: core.ClosedJaxpr, count: int) -> list[int]:
    """The leaves of the state that a step returns as they came, by index.

    Args:
      step: the step over flat leaves, the state's first among operands and results.
      count: how many leaves the state has.
    """
    operands = [_Input(i, var.aval.dtype) for i, var in enumerate(step.jaxpr.invars)]
    results = _results(step.jaxpr, operands, {})
    return [i for i in range(count) if results[i] == operands[i]]


@dataclasses.dataclass(frozen=True)
class _Input:
    """The value of an input of the outermost function.

    Attributes:
      index: the input.
      dtype: its dtype. The value may be held in a wider one.
      rows: how many scans around read it row by row: 1 stands for a row, 2 for a row of a row.
    """

    index: int
    dtype: Any
    rows: int = 0


_ZERO = "zero"
"""A value of which every entry is 0 (or -0)."""

_Value = _Input | str | None
"""What is known of a value; None if nothing is."""


def _results(jaxpr: core.Jaxpr, operands: Sequence[_Value], memo: Memo) -> list[_Value]:
    equation = lambda eqn, values: _equation(eqn, values, memo)
    return forward(jaxpr, operands, equation, _literal, None, memo)


def _literal(value: Any) -> _Value:
    number = np.asarray(value)
    # The derivative in an integer, a float0, is no number: NumPy does not compare it with one.
    return _ZERO if number.dtype != jax.dtypes.float0 and np.all(number == 0) else None


def _equation(eqn: core.JaxprEqn, operands: list[_Value], memo: Memo) -> list[_Value]:
    nothing: list[_Value] = [None] * len(eqn.outvars)
    if eqn.primitive in (site_p, grad_p):
        # Auxiliary results of a loss; gradients follow them.
        loss = _results(eqn.params["jaxpr"].jaxpr, operands, memo)
        return [*loss, *nothing[len(loss) :]]
    if (called := call(eqn)) is not None:
        bodies = [body for body in called.bodies if body.results]
        of_bodies = [dict(zip(body.results, _of_body(body, operands, memo))) for body in bodies]
        # Branches have to agree.
        return [
            values.pop() if len(values := {of_body[i] for of_body in of_bodies}) == 1 else None
            for i in range(len(eqn.outvars))
        ]
    if eqn.primitive.name in _HANDED_ON:
        return operands
    return [_simple(eqn, operands), *nothing[1:]] if operands else nothing


def _of_body(body: Body, operands: Sequence[_Value], memo: Memo) -> list[_Value]:
    """The results of a function; of a loop's body, after all turns."""
    inputs = [operands[i] for i in body.operands]
    for i in body.read_by_row:
        if isinstance(whole := inputs[i], _Input):
            inputs[i] = dataclasses.replace(whole, rows=whole.rows + 1)
    outputs = through_body(body, inputs, lambda jaxpr, values: _results(jaxpr, values, memo), None)
    for output in body.written_by_row:
        row = outputs[output]
        if isinstance(row, _Input):
            # Only what this loop read by row is whole again when all rows are written.
            is_row = any(inputs[i] == row for i in body.read_by_row)
            outputs[output] = dataclasses.replace(row, rows=row.rows - 1) if is_row else None
    return outputs


_HANDED_ON = {
    "copy",
    "copy_p",
    "device_put",
    "name",
    "optimization_barrier",
    "sharding_constraint",
    "stop_gradient",
}
"""Primitives whose results are their operands. By name, since no JAX has all of them."""

_REARRANGED = {"reshape", "broadcast_in_dim", "transpose", "squeeze", "expand_dims", "rev", "slice"}
"""Primitives that leave zeros zeros, and whose result is the operand itself where they do nothing
to it.
"""


def _simple(eqn: core.JaxprEqn, operands: list[_Value]) -> _Value:
    name, first = eqn.primitive.name, operands[0]
    if name == "convert_element_type":
        return _cast(first, eqn.params["new_dtype"])
    if name in _REARRANGED:
        return first if first == _ZERO or _does_nothing(eqn) else None
    if name == "integer_pow":
        return first if eqn.params["y"] == 1 else None
    if name == "neg":
        return first if first == _ZERO else None
    if name == "select_n":
        choices = operands[1:]
        return choices[0] if all(value == choices[0] for value in choices) else None
    if name in ("add", "add_any", "sub"):
        if operands[1] == _ZERO:
            return _broadcast(eqn, 0, first)
        return _broadcast(eqn, 1, operands[1]) if first == _ZERO and name != "sub" else None
    if name in ("mul", "div"):
        return _scaled(eqn, operands)
    return None


def _scaled(eqn: core.JaxprEqn, operands: list[_Value]) -> _Value:
    """x * 1, x / 1, and zero times or by a finite number that is known."""
    for at in (1, 0) if eqn.primitive.name == "mul" else (1,):
        number, value = eqn.invars[at], operands[1 - at]
        if isinstance(number, core.Literal) and _is_real_scalar(number.val):
            factor = float(number.val)
            if factor == 1:
                return _broadcast(eqn, 1 - at, value)
            if value == _ZERO and np.isfinite(factor) and (eqn.primitive.name == "mul" or factor):
                return _ZERO
    return _ZERO if eqn.primitive.name == "mul" and set(operands) == {_ZERO} else None


def _is_real_scalar(number: Any) -> bool:
    return np.ndim(number) == 0 and np.isrealobj(number)


def _broadcast(eqn: core.JaxprEqn, operand: int, value: _Value) -> _Value:
    """The operand's value as a result: nothing is known if a scalar became an array."""
    return value if value == _ZERO or _same_shape(eqn, operand) else None


def _same_shape(eqn: core.JaxprEqn, operand: int) -> bool:
    shape, result = (
        getattr(atom.aval, "shape", None) for atom in (eqn.invars[operand], eqn.outvars[0])
    )
    return shape == result


def _does_nothing(eqn: core.JaxprEqn) -> bool:
    """Whether a rearrangement leaves its operand as it is."""
    if not _same_shape(eqn, 0):
        return False
    match eqn.primitive.name:
        case "transpose":
            return list(eqn.params["permutation"]) == sorted(eqn.params["permutation"])
        case "rev":
            return not eqn.params["dimensions"]
        case "reshape":
            return eqn.params["dimensions"] is None
        case _:
            return True


def _cast(value: _Value, dtype: Any) -> _Value:
    """A value in another dtype: still known if that dtype holds all values of the first."""
    if not isinstance(value, _Input) or value.dtype == dtype:
        return value
    return value if dtypes.holds_all_of(dtype, value.dtype) else None
