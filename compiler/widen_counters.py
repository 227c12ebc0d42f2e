"""Widens the 32-bit counters of loops that are differentiated to 64 bits: Enzyme's library aborts on them otherwise.

    while (%i = %zero : tensor<i32>) cond { compare LT, %i, %n } do { %next = add %i, %one }
->
    while (%i = convert %zero : tensor<i64>) cond { compare LT, %i, convert %n } do { %j = convert %i : tensor<i32> ...; %next = add %i, %one : tensor<i64> }

A counter is a carried scalar that the body replaces by itself plus a constant and that the condition compares.  Loops of any other shape are left alone; the
capability table does not list them as proven, so Enzyme never sees them.
"""

from __future__ import annotations

from jaxlib.mlir import ir
from jaxlib.mlir.dialects import func
from jaxlib.mlir.dialects import stablehlo as hlo

from metagrad.compiler import functions

NAME = "widen-counters"


def run(module: ir.Module) -> None:
    for function in module.body.operations:
        if isinstance(function, func.FuncOp) and function.name.value != "metagradient":
            for op in list(functions.walk(functions.body(function))):
                if isinstance(op, hlo.WhileOp):
                    for index in range(len(op.operands)):
                        if _is_counter(op, index):
                            _widen(op, index)


def _scalar(bits: int) -> ir.Type:
    return ir.RankedTensorType.get([], ir.IntegerType.get_signless(bits))


def _is_counter(loop: hlo.WhileOp, index: int) -> bool:
    if loop.operands[index].type != _scalar(32):
        return False
    condition, body = (region.blocks[0] for region in loop.regions)
    test = condition.operations[len(condition.operations) - 1].operands[0].owner
    compared = condition.arguments[index]
    if test.name != "stablehlo.compare" or compared not in list(test.operands):
        return False
    following = body.operations[len(body.operations) - 1].operands[index].owner
    return (
        not isinstance(following, ir.Block)
        and following.name == "stablehlo.add"
        and body.arguments[index] in list(following.operands)
        and any(_is_constant(operand) for operand in following.operands)
    )


def _is_constant(value: ir.Value) -> bool:
    return not isinstance(value.owner, ir.Block) and value.owner.name == "stablehlo.constant"


def _widen(loop: hlo.WhileOp, index: int) -> None:
    condition, body = (region.blocks[0] for region in loop.regions)
    with ir.InsertionPoint(loop), loop.location:
        loop.operation.operands[index] = hlo.convert(_scalar(64), loop.operands[index])
    test = condition.operations[len(condition.operations) - 1].operands[0].owner
    following = body.operations[len(body.operations) - 1].operands[index].owner
    for block, ending in ((condition, test), (body, following)):
        counter = block.arguments[index]
        counter.set_type(_scalar(64))
        others = [use for use in counter.uses if use.owner != ending]
        with ir.InsertionPoint.at_block_begin(block), loop.location:
            _narrow(counter, others)
        with ir.InsertionPoint(ending), loop.location:
            for number, operand in enumerate(ending.operands):
                if operand != counter:
                    ending.operands[number] = hlo.convert(_scalar(64), operand)
    end = body.operations[len(body.operations) - 1].operation
    for widened, stays in ((following.results[0], [(end, index)]), (loop.results[index], [])):
        others = [use for use in widened.uses if (use.owner.operation, use.operand_number) not in stays]
        widened.set_type(_scalar(64))
        with ir.InsertionPoint.after(widened.owner), loop.location:
            _narrow(widened, others)


def _narrow(counter: ir.Value, uses: list[ir.OpOperand]) -> None:
    """What reads the counter for something else than counting gets it in 32 bits, as before."""
    if uses:
        narrow = hlo.convert(_scalar(32), counter)
        for use in uses:
            use.owner.operands[use.operand_number] = narrow
