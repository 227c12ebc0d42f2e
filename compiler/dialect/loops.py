"""Structured control flow for passes that write code: counted `stablehlo.while` loops over a carry,
and 32-bit index arithmetic.

A `Carry` is a dict of named lists of values, so that a pass says `carry["state"]` and not
`args[3:17]`. Values from outside are captured by the loop's regions as they are; only what a loop
changes is carried.

There is no conditional here on purpose. XLA gives the results of a conditional new buffers, and a
slot buffer must never be copied; a loop of zero or one trips updates its carry in place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxlib.mlir import ir
from jaxlib.mlir.dialects import stablehlo as hlo

Carry = dict[str, list[ir.Value]]


def index(value: int) -> ir.Value:
    return hlo.constant(ir.DenseElementsAttr.get(np.array(value, np.int32)))


def table(values: np.ndarray) -> ir.Value:
    """A constant tensor<NxI32>."""
    return hlo.constant(ir.DenseElementsAttr.get(np.ascontiguousarray(values, np.int32)))


def entry(tensor: ir.Value, at: ir.Value) -> ir.Value:
    """tensor[at] of a table, as a scalar."""
    scalar = ir.RankedTensorType.get([], tensor.type.element_type)
    return hlo.reshape(scalar, hlo.dynamic_slice(tensor, [at], [1]))


def compare(left: ir.Value, direction: str, right: ir.Value) -> ir.Value:
    return hlo.compare(
        left,
        right,
        hlo.ComparisonDirectionAttr.get(direction),
        compare_type=hlo.ComparisonTypeAttr.get("SIGNED"),
    )


def count(condition: ir.Value) -> ir.Value:
    """1 where the condition holds, else 0: the trips of a loop that stands for an `if`."""
    return hlo.convert(ir.RankedTensorType.get([], ir.IntegerType.get_signless(32)), condition)


def row(stacked: ir.Value, at: ir.Value) -> ir.Value:
    """stacked[at] of tensor<NxSHAPE>."""
    shape = list(stacked.type.shape)
    zero = [index(0)] * (len(shape) - 1)
    piece = hlo.dynamic_slice(stacked, [at, *zero], [1, *shape[1:]])
    return hlo.reshape(ir.RankedTensorType.get(shape[1:], stacked.type.element_type), piece)


def set_row(stacked: ir.Value, at: ir.Value, value: ir.Value, axis: int = 0) -> ir.Value:
    """stacked with stacked[at] = value; stacked[:, at] with axis=1, and so on."""
    shape = list(stacked.type.shape)
    start = [index(0) if i != axis else at for i in range(len(shape))]
    shape[axis] = 1
    piece = hlo.reshape(ir.RankedTensorType.get(shape, stacked.type.element_type), value)
    return hlo.dynamic_update_slice(stacked, piece, start)


def empty(rows: int, like: ir.Type) -> ir.Value:
    """Zeros of tensor<ROWSxLIKE>: a slot buffer before anything is in it."""
    return zeros(ir.RankedTensorType.get([rows, *like.shape], like.element_type))


def zeros(ty: ir.Type) -> ir.Value:
    element = ty.element_type
    zero = (
        ir.FloatAttr.get(element, 0.0)
        if isinstance(element, ir.FloatType)
        else ir.IntegerAttr.get(element, 0)
    )
    scalar = hlo.constant(
        ir.DenseElementsAttr.get_splat(ir.RankedTensorType.get([], element), zero)
    )
    return hlo.broadcast_in_dim(ty, scalar, ir.DenseI64ArrayAttr.get([])) if ty.shape else scalar


def repeat(
    first: ir.Value, bound: ir.Value, carry: Carry, body: Callable[[ir.Value, Carry], Carry]
) -> Carry:
    """`for i in range(first, bound): carry = body(i, carry)`."""
    names = list(carry)
    operands = [first, *(value for name in names for value in carry[name])]
    kinds = [operand.type for operand in operands]
    loop = hlo.WhileOp(kinds, operands)
    locations = [loop.location] * len(kinds)

    condition = ir.Block.create_at_start(loop.regions[0], kinds, locations)
    with ir.InsertionPoint(condition):
        hlo.return_([compare(condition.arguments[0], "LT", bound)])

    block = ir.Block.create_at_start(loop.regions[1], kinds, locations)
    with ir.InsertionPoint(block):
        at = block.arguments[0]
        after = body(at, _unflatten(names, carry, list(block.arguments)[1:]))
        following = hlo.add(at, index(1))
        hlo.return_([following, *(value for name in names for value in after[name])])
    return _unflatten(names, carry, list(loop.results)[1:])


def once_if(
    condition: ir.Value, carry: Carry, operands: Carry, body: Callable[[Carry, Carry], Carry]
) -> Carry:
    """`if condition: carry = body(carry, operands)`, in place.

    What the body reads from outside has to come as `operands`. XLA moves what does not change from
    one trip to the next in front of a loop, and in front of this one that means: it is computed
    whether the condition holds or not. So the operands pass through a barrier with the loop's
    counter, and all that is computed from them is the loop's own. (Without it a gradient was
    computed at every step that only loads one.)
    """

    def guarded(counter: ir.Value, inner: Carry) -> Carry:
        names = list(operands)
        values = [value for name in names for value in operands[name]]
        return body(inner, _unflatten(names, operands, fenced(counter, values)))

    return repeat(index(0), count(condition), carry, guarded)


def fenced(counter: ir.Value, values: Sequence[ir.Value]) -> list[ir.Value]:
    """The values as they are in a loop with this counter: XLA moves nothing that is computed from
    them in front of the loop.
    """
    barrier: Any = hlo.optimization_barrier([counter, *values])
    # The bindings return the one result of an op as it is, and several as a list.
    return [] if isinstance(barrier, ir.Value) else list(barrier)[1:]


def _unflatten(names: Sequence[str], like: Carry, values: Sequence[ir.Value]) -> Carry:
    carry, start = {}, 0
    for name in names:
        size = len(like[name])
        carry[name] = list(values[start : start + size])
        start += size
    return carry
