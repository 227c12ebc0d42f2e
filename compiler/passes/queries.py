"""Gives the VJPs a cotangent for each query, where the outer value is a vector of Q of them.

    func @step_vjp(%s, %z, %b, %g, %bar: tensor<3xf32>) {
      %p = <of %s, %z, %b, %g>
      %n = <of %p, %bar>
      return %n : tensor<3xf32>
    }
->
    func @step_vjp(%s, %z, %b, %g, %bars: tensor<Qx3xf32>) {
      %p = <of %s, %z, %b, %g>
      for %q in 0 .. Q {
        %bar = %bars[%q]
        %n = <of %p, %bar>
        %ns[%q] = %n
      }
      return %ns : tensor<Qx3xf32>
    }

What does not depend on the cotangents is computed once for all queries: the loss, its backward pass
and what the optimiser's derivative needs of the state. Of a VJP in mixed mode this is about a
quarter of the products. The rest goes through a loop, so that beside the cotangents themselves no
array has an axis of Q.

What is computed before the loop is kept while the loop runs. So what is cheap (elementwise, a
broadcast) is made again in the loop if that leaves fewer bytes to be kept. A barrier holds it
there: XLA would move it in front of the loop.

A loop in a VJP that the cotangents go through (`lax.scan` in the loss) is run for each query as a
whole.

@outer_vjp takes a cotangent of its value when pass `differentiate` has written it. Here that
becomes a row of the identity for each query, and the argument goes:

    func @outer_vjp(%s, %a, %bar: tensor<Qxf32>) -> (value, aux, cotangents of the state)
->
    func @outer_vjp(%s, %a)                      -> (value, aux, cotangents with a leading Q)

A module whose outer value is a scalar stays as it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from jaxlib.mlir import ir
from jaxlib.mlir.dialects import func
from jaxlib.mlir.dialects import stablehlo as hlo

from metagrad.compiler.dialect import functions, loops, metagrad

NAME = "queries"


def run(module: ir.Module) -> None:
    outer_vjp = functions.need(module, "outer_vjp", NAME)
    count = queries_of(module)
    if count is None:
        return
    states = len(metagrad.between_steps_of(module))
    step_vjp = functions.need(module, "step_vjp", NAME)
    _map(module, step_vjp, states, range(len(step_vjp.type.results)), count)
    results = len(outer_vjp.type.results)
    _map(module, outer_vjp, 1, range(results - states, results), count)
    _feed_identity(outer_vjp)


def queries_of(module: ir.Module) -> int | None:
    """Q, where the outer value is a vector; None where it is a scalar."""
    value = functions.need(module, "outer_vjp", NAME).type.results[0]
    return value.shape[0] if value.shape else None


def with_queries(ty: ir.Type, count: int | None) -> ir.Type:
    """The type with a leading axis for the queries, if there are any."""
    return ty if count is None else ir.RankedTensorType.get([count, *ty.shape], ty.element_type)


def _map(
    module: ir.Module, function: func.FuncOp, arguments: int, mapped: Sequence[int], count: int
) -> None:
    """Gives the last `arguments` of a function a leading axis, and the results `mapped`."""
    block = functions.body(function)
    single = list(block.arguments)[len(block.arguments) - arguments :]
    _inline_calls(module, block, single)
    dependent = _dependent_ops(block, single)
    depends = {*single, *(result for op in dependent for result in op.results)}
    end = block.operations[len(block.operations) - 1]
    results = list(end.operands)
    looped = [i for i in mapped if results[i] in depends]
    stacked = [
        block.add_argument(with_queries(argument.type, count), function.location)
        for argument in single
    ]

    def body(q: ir.Value, carry: loops.Carry) -> loops.Carry:
        inside = q.owner
        assert isinstance(inside, ir.Block), "q is an argument of the loop's body"
        for argument, rows in zip(single, stacked):
            argument.replace_all_uses_with(loops.row(rows, q))
        for op in dependent:
            inside.append(op)
        _bring_in(block, inside, stacked)
        # Of an argument that is returned, `end` has the row by now.
        returned = [end.operands[i] for i in looped]
        return {"stacks": [loops.set_row(s, q, row) for s, row in zip(carry["stacks"], returned)]}

    with ir.InsertionPoint(end), end.location:
        if looped:
            stacks = [loops.empty(count, results[i].type) for i in looped]
            carry = loops.repeat(loops.index(0), loops.index(count), {"stacks": stacks}, body)
            for i, stack in zip(looped, carry["stacks"]):
                results[i] = stack
        for i in mapped:
            if i not in looped:
                results[i] = _broadcast(results[i], count)
        func.ReturnOp(results)
    end.operation.erase()
    for argument in reversed(single):
        block.erase_argument(argument.arg_number)
    functions.retype(function)


def _dependent_ops(block: ir.Block, arguments: Sequence[ir.Value]) -> list[ir.Operation]:
    """The ops of a function's block that depend on some of its arguments, in order."""
    dependent, values = [], set(arguments)
    for op in list(block.operations)[:-1]:
        read = [operand for inner in (op, *_inside(op)) for operand in inner.operands]
        if not values.isdisjoint(read):
            dependent.append(op.operation)
            values.update(op.results)
    return dependent


def _inline_calls(module: ir.Module, block: ir.Block, arguments: Sequence[ir.Value]) -> None:
    """Inlines the calls that depend on the arguments: a part of what they compute may not.

    Calls that are not to be inlined compute again what is not to be kept: they stay.
    """
    while calls := [
        op.opview
        for op in _dependent_ops(block, arguments)
        if isinstance(op.opview, func.CallOp) and functions.NO_INLINE not in op.attributes
    ]:
        for call in calls:
            functions.inline(module, call)


_CHEAP = {
    f"stablehlo.{name}"
    for name in (
        *("constant", "iota", "broadcast_in_dim", "reshape", "convert"),
        *("add", "subtract", "multiply", "divide", "negate", "abs", "sign", "maximum", "minimum"),
        *("compare", "select", "and", "or", "not", "xor"),
    )
}
"""What XLA computes where it is read, without an array for it."""


def _bring_in(block: ir.Block, body: ir.Block, rows_of: Sequence[ir.Value]) -> None:
    """Writes what the body of a loop in `block` reads from outside into the body: it makes again
    what is cheap, where that leaves less to be kept for it, and takes the rest through a barrier.

    `rows_of` is what only rows are read of.
    """
    readers = [inner for op in body.operations for inner in (op.operation, *_inside(op))]
    outside = lambda op: [x for x in op.operands if _is_made_in(x, block)]
    kept = dict.fromkeys(x for op in readers for x in outside(op) if x not in rows_of)
    again: list[ir.Operation] = []
    # The last first: what an op is made of may itself be made again.
    for op in reversed([op.operation for op in block.operations]):
        if op.name not in _CHEAP or op.results[0] not in kept:
            continue
        more = dict.fromkeys(x for x in op.operands if x not in kept)
        if sum(map(_bytes, more)) < _bytes(op.results[0]):
            again.insert(0, op)
            del kept[op.results[0]]
            kept |= more
    with ir.InsertionPoint(body.operations[0]):
        copies = dict(zip(kept, loops.fenced(body.arguments[0], list(kept))))
        for op in again:
            copy = op.clone()
            _replace_operands(copy, copies)
            copies[op.results[0]] = copy.results[0]
    for reader in readers:
        _replace_operands(reader, copies)


def _is_made_in(value: ir.Value, block: ir.Block) -> bool:
    owner = value.owner
    return (owner if isinstance(owner, ir.Block) else owner.operation.block) == block


def _bytes(value: ir.Value) -> int:
    element = value.type.element_type
    return math.prod(value.type.shape) * (getattr(element, "width", 128) + 7 >> 3)


def _replace_operands(op: ir.Operation, values: dict[ir.Value, ir.Value]) -> None:
    for i, operand in enumerate(op.operands):
        if operand in values:
            op.operands[i] = values[operand]


def _inside(op: ir.OpView) -> list[ir.Operation]:
    return functions.operations(op) if op.regions else []


def _broadcast(value: ir.Value, count: int) -> ir.Value:
    """The value for each query."""
    axes = range(1, len(value.type.shape) + 1)
    return hlo.broadcast_in_dim(
        with_queries(value.type, count), value, ir.DenseI64ArrayAttr.get(list(axes))
    )


def _feed_identity(outer_vjp: func.FuncOp) -> None:
    """Puts the identity in the place of the last argument."""
    block = functions.body(outer_vjp)
    seeds = block.arguments[len(block.arguments) - 1]
    with ir.InsertionPoint.at_block_begin(block), outer_vjp.location:
        i64 = ir.IntegerType.get_signless(64)
        counters = ir.RankedTensorType.get(seeds.type.shape, ir.IntegerType.get_signless(32))
        row, column = (hlo.iota(counters, ir.IntegerAttr.get(i64, axis)) for axis in (0, 1))
        identity = hlo.convert(seeds.type, loops.compare(row, "EQ", column))
    seeds.replace_all_uses_with(identity)
    block.erase_argument(seeds.arg_number)
    functions.retype(outer_vjp)
