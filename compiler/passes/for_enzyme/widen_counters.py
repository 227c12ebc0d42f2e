"""Widens the 32-bit counters of loops that are differentiated to 64 bits: Enzyme's library aborts
on them otherwise.

    while (%i = %zero : tensor<i32>) cond { compare LT, %i, %n } do { %next = add %i, %one }
->
    while (%i = %zero : tensor<i64>) cond { compare LT, %i, %n } do {
      %j = convert %i : tensor<i32> ...
      %next = add %i, %one : tensor<i64>
    }

Constants are written anew in 64 bits, not converted: Enzyme must be able to read the number of
trips. Loops without a counter (induction_variables.py) are left alone; the capability table does
not list them as proven, so Enzyme never differentiates them.
"""

from __future__ import annotations

from jaxlib.mlir import ir
from jaxlib.mlir.dialects import stablehlo as hlo

from metagrad.compiler.analysis.induction_variables import counter_of, endings, terminator
from metagrad.compiler.dialect.matching import operations

NAME = "widen-counters"


def run(module: ir.Module) -> None:
    for op in operations(module, "while"):
        index = counter_of(op)
        if index is not None and op.operands[index].type == _scalar(32):
            _widen(op, index)


def _scalar(bits: int) -> ir.Type:
    return ir.RankedTensorType.get([], ir.IntegerType.get_signless(bits))


def _widen(loop: hlo.WhileOp, index: int) -> None:
    condition, body = (region.blocks[0] for region in loop.regions)
    test, following = endings(loop, index)
    with ir.InsertionPoint(loop), loop.location:
        loop.operation.operands[index] = _wide(loop.operands[index])
    for block, ending in ((condition, test), (body, following)):
        counter = block.arguments[index]
        counter.set_type(_scalar(64))
        others = [use for use in counter.uses if use.owner != ending]
        with ir.InsertionPoint.at_block_begin(block), loop.location:
            _narrow(counter, others)
        with ir.InsertionPoint(ending), loop.location:
            for number, operand in enumerate(ending.operands):
                if operand != counter:
                    ending.operands[number] = _wide(operand)
    for widened, stays in (
        (following.results[0], [(terminator(body), index)]),
        (loop.results[index], []),
    ):
        others = [
            use for use in widened.uses if (use.owner.operation, use.operand_number) not in stays
        ]
        widened.set_type(_scalar(64))
        with ir.InsertionPoint.after(widened.owner), loop.location:
            _narrow(widened, others)


def _wide(value: ir.Value) -> ir.Value:
    if not isinstance(value.owner, ir.Block) and value.owner.name == "stablehlo.constant":
        number = ir.IntegerAttr.get(
            _scalar(64).element_type, int(value.owner.attributes["value"][0])
        )
        return hlo.constant(ir.DenseElementsAttr.get_splat(_scalar(64), number))
    return hlo.convert(_scalar(64), value)


def _narrow(counter: ir.Value, uses: list[ir.OpOperand]) -> None:
    """What reads the counter for something else than counting gets it in 32 bits, as before."""
    if uses:
        narrow = hlo.convert(_scalar(32), counter)
        for use in uses:
            use.owner.operands[use.operand_number] = narrow
