"""Which carried value of a `stablehlo.while` is its counter. An analysis, not a pass.

    while (%i = ..., ...) cond { compare LT, %i, %n } do {
      ...
      %next = add %i, <constant>
      return %next, ...
    }

A counter is a carried integer scalar that the body replaces by itself plus a constant and that the
condition compares. JAX gives every `scan` and `fori_loop` with a fixed number of trips one.
"""

from __future__ import annotations

from jaxlib.mlir import ir
from jaxlib.mlir.dialects import stablehlo as hlo


def counter_of(loop: hlo.WhileOp) -> int | None:
    """The position of the loop's counter among what it carries, or None where the loop has no
    counter.
    """
    return next((index for index in range(len(loop.operands)) if _is_counter(loop, index)), None)


def endings(loop: hlo.WhileOp, index: int) -> tuple[ir.Operation, ir.Operation]:
    """The comparison that tests counter `index`, and the addition that steps it."""
    condition, body = (region.blocks[0] for region in loop.regions)
    return terminator(condition).operands[0].owner, terminator(body).operands[index].owner


def terminator(block: ir.Block) -> ir.Operation:
    return block.operations[len(block.operations) - 1].operation


def _is_counter(loop: hlo.WhileOp, index: int) -> bool:
    ty = loop.operands[index].type
    if ty.shape or not isinstance(ty.element_type, ir.IntegerType):
        return False
    condition, body = (region.blocks[0] for region in loop.regions)
    test, following = endings(loop, index)
    return (
        _is(test, "stablehlo.compare")
        and condition.arguments[index] in list(test.operands)
        and _is(following, "stablehlo.add")
        and body.arguments[index] in list(following.operands)
        and any(_is(operand.owner, "stablehlo.constant") for operand in following.operands)
    )


def _is(owner: ir.Operation | ir.OpView | ir.Block, name: str) -> bool:
    return not isinstance(owner, ir.Block) and owner.name == name
