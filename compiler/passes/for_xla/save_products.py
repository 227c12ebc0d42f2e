"""Saves the products that the loop back through a loop would compute again.

    %f:3 = while (%i = 0, %h = ..., %hs) {
      %s = dynamic_update_slice %hs, %h, %i
      %p = dot_general %h, %w
      ...
    while (%j = 3, ...) {
      %h = dynamic_slice %f#2, %j
      %p = dot_general %h, %w
      ...
->
    %f:4 = while (%i = 0, %h = ..., %hs, %ps) {
      %s = dynamic_update_slice %hs, %h, %i
      %p = dot_general %h, %w
      %q = dynamic_update_slice %ps, %p, %i
      ...
    while (%j = 3, ...) {
      %h = dynamic_slice %f#2, %j
      %p = dynamic_slice %f#3, %j
      ...

Enzyme saves as little of an iteration as the way back can be computed from: what the loop carries.
The rest is computed again, products of matrices too. JAX saves all that the way back needs. Here,
the products (and convolutions) are saved, and what is elementwise is computed again: that takes
the time of JAX's way, with less memory than it needs.

Only in functions that are Enzyme's work throughout (`expand` marks them): in a backward pass that
JAX made, what is computed again is what the user's `jax.checkpoint` says.

analysis/same_values.py says what the second loop would compute again. In place of a product, what
is made of it is saved where that takes no more memory: a sum and not each of its terms, pieces and
not the whole. (Pieces also matter because XLA's CPU compiler does not vectorise a loop over several
pieces of one row.)
"""

from __future__ import annotations

import math

from jaxlib.mlir import ir
from jaxlib.mlir.dialects import func
from jaxlib.mlir.dialects import stablehlo as hlo

from metagrad.compiler.analysis.induction_variables import terminator
from metagrad.compiler.analysis.row_access import row_counter
from metagrad.compiler.analysis.same_values import SameValues
from metagrad.compiler.analysis.trip_values import counters, unchanging
from metagrad.compiler.dialect import functions, loops, metagrad
from metagrad.compiler.dialect.matching import producer, users

NAME = "save-products"

PRODUCTS = ("stablehlo.dot_general", "stablehlo.convolution")
ROWS = ("stablehlo.dynamic_slice",)
"""Ops whose other operands only say where the first is read."""


def run(module: ir.Module) -> None:
    for function in module.body.operations:
        if isinstance(function, func.FuncOp) and metagrad.BY_ENZYME in function.attributes:
            # Inner blocks first: a loop that is rebuilt takes its blocks along, and references to
            # them through the old loop are stale.
            for block in reversed(_blocks(function)):
                _visit(block)


def _blocks(function: func.FuncOp) -> list[ir.Block]:
    """The blocks in which a loop can stand: of the function, and of the loops and conditionals in
    it.
    """
    owners = functions.operations(
        function, {"stablehlo.while", "stablehlo.case", "stablehlo.if"}.__contains__
    )
    return [block for op in (function, *owners) for region in op.regions for block in region.blocks]


def _visit(block: ir.Block) -> None:
    forward: list[hlo.WhileOp] = []
    offers: list[set[ir.Value]] = []
    for op in list(block.operations):
        if not isinstance(op, hlo.WhileOp):
            continue
        needs = _needs(op)
        for i, loop in enumerate(forward):
            if not any(need <= offers[i] for need in needs):
                continue
            for counter in counters(op):
                forward[i] = _save(forward[i], op, counter)
            if forward[i] is not loop:
                offers[i], needs = _offers(forward[i]), _needs(op)
        forward.append(op)
        offers.append(_offers(op))


def _needs(back: hlo.WhileOp) -> list[set[ir.Value]]:
    """For each product of a loop's body, the values from outside the body that it is made of.

    Only for products that are made of nothing but those and counters. If another loop is to have
    computed one, it offers all of them. This is what keeps the pass linear in the number of loops:
    an optimiser that takes a root of every matrix has a pair of loops for each, and all look alike.
    """
    block = back.regions[1].blocks[0]
    constant, steps = unchanging(back), {block.arguments[i] for i in counters(back)}
    made_of: dict[ir.Value, set[ir.Value] | None] = {
        argument: {constant[argument]}
        if argument in constant
        else set()
        if argument in steps
        else None
        for argument in block.arguments
    }
    needs = []
    for op in list(block.operations)[:-1]:
        read = op.operands[:1] if op.operation.name in ROWS else op.operands
        parts = [made_of.get(operand, {operand}) for operand in read]
        known = [part for part in parts if part is not None]
        whole = set().union(*known) if len(known) == len(parts) else None
        made_of.update(dict.fromkeys(op.results, whole))
        if op.operation.name in PRODUCTS and whole is not None:
            needs.append(whole)
    return needs


def _offers(forward: hlo.WhileOp) -> set[ir.Value]:
    """What a loop's body reads from outside, and what the loop returns."""
    block = forward.regions[1].blocks[0]
    read = {operand for op in block.operations for operand in op.operands}
    return read | {*unchanging(forward).values(), *forward.results}


def _save(forward: hlo.WhileOp, back: hlo.WhileOp, counter: int) -> hlo.WhileOp:
    """Saves in `forward` the products that `back` computes again, if its counter `counter` says
    which iteration of `forward` it goes back through.
    """
    stacks = _stacks(forward)
    if not stacks:
        return forward
    same = SameValues(forward, back, counter, stacks)
    if not same.values:
        return forward
    products = [op for op in same.values if op.name in PRODUCTS]
    saved = dict.fromkeys(
        end for product in products for end in _values_to_save(product, same.values)
    )
    block = back.regions[1].blocks[0]
    for op in reversed([op.operation for op in block.operations if op.operation in saved]):
        # What only a saved value was computed from is not read any more.
        if op in _read(block):
            forward = _save_value(forward, back, counter, same.values[op], op)
    functions.drop_dead(block)
    return forward


def _read(block: ir.Block) -> set[ir.Operation]:
    """The ops of a block that its results depend on."""
    ops = [op.operation for op in block.operations]
    inside, read = set(ops), {ops[-1]}
    for op in reversed(ops):
        if any(
            user in read or user not in inside for result in op.results for user in users(result)
        ):
            read.add(op)
    return read


def _stacks(loop: hlo.WhileOp) -> dict[ir.Value, ir.Value]:
    """The results of a loop that stack a value of every iteration, row by row, with that value.

    The value is the body's.
    """
    values = counters(loop)
    if not values:
        return {}
    body = loop.regions[1].blocks[0]
    body_counters = {body.arguments[i]: rows for i, rows in values.items()}
    stacks: dict[ir.Value, ir.Value] = {}
    for argument, result, returned in zip(body.arguments, loop.results, terminator(body).operands):
        written = producer(returned, "dynamic_update_slice")
        if (
            written is not None
            and written.operands[0] == argument
            and sum(1 for _ in argument.uses) == 1
        ):
            counter = row_counter(written, body_counters)
            if counter is not None and body_counters[counter] == range(result.type.shape[0]):
                stacks[result] = written.operands[1]
    return stacks


def _values_to_save(
    op: ir.Operation, known_values: dict[ir.Operation, ir.Value]
) -> list[ir.Operation]:
    """What to save in place of a product: what is made of it, as long as that is known too and
    together no larger.
    """
    readers = users(op.results[0])
    if not readers or any(reader not in known_values for reader in readers):
        return [op]
    if sum(_elements(reader.results[0]) for reader in readers) > _elements(op.results[0]):
        return [op]
    return [end for reader in readers for end in _values_to_save(reader, known_values)]


def _elements(value: ir.Value) -> int:
    return math.prod(value.type.shape)


def _save_value(
    forward: hlo.WhileOp, back: hlo.WhileOp, counter: int, value: ir.Value, again: ir.Operation
) -> hlo.WhileOp:
    """Makes `forward` write `value` into a row at every iteration, and `back` read it there."""
    trip_counter = min(i for i, values in counters(forward).items() if values == range(len(values)))
    trips = len(counters(forward)[trip_counter])
    with ir.InsertionPoint(forward), forward.location:
        forward = _with_carried(forward, loops.empty(trips, value.type))
        body = forward.regions[1].blocks[0]
        end = terminator(body)
    with ir.InsertionPoint(end), end.location:
        written = loops.set_row(
            body.arguments[len(body.arguments) - 1], _index(body.arguments[trip_counter]), value
        )
        hlo.return_([*end.operands, written])
    end.erase()
    block = back.regions[1].blocks[0]
    with ir.InsertionPoint(again), again.location:
        row = loops.row(forward.results[len(forward.results) - 1], _index(block.arguments[counter]))
    again.results[0].replace_all_uses_with(row)
    return forward


def _index(counter: ir.Value) -> ir.Value:
    """As loops.py counts."""
    return hlo.convert(ir.RankedTensorType.get([], ir.IntegerType.get_signless(32)), counter)


def _with_carried(loop: hlo.WhileOp, start: ir.Value) -> hlo.WhileOp:
    """The loop with one value more that is carried. Its body does not yet return one for it."""
    operands = [*loop.operands, start]
    wider = hlo.WhileOp(functions.types(operands), operands)
    for name in loop.attributes:
        wider.attributes[name] = loop.attributes[name]
    for source, target in zip(loop.regions, wider.regions):
        block = source.blocks[0]
        block.append_to(target)
        block.add_argument(start.type, loop.location)
    for old, new in zip(loop.results, wider.results):
        old.replace_all_uses_with(new)
    loop.operation.erase()
    return wider
