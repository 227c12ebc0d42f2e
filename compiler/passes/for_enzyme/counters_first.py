"""Puts the counter of a loop that is differentiated first among what the loop carries: Enzyme takes
the first for the counter.

    while (%w = %weights, %i = %zero, %h = %x) cond { compare LT, %i, %n } do { ... }
->
    while (%i = %zero, %w = %weights, %h = %x) cond { compare LT, %i, %n } do { ... }

JAX carries what a loop only reads before the counter. Enzyme's optimiser takes function arguments
among that out of the loop, but not what was computed; what is left makes its reverse pass compare a
tensor with the number of trips, and fail.
"""

from __future__ import annotations

from jaxlib.mlir import ir
from jaxlib.mlir.dialects import stablehlo as hlo

from metagrad.compiler.analysis.induction_variables import counter_of, terminator
from metagrad.compiler.dialect.matching import operations

NAME = "counters-first"


def run(module: ir.Module) -> None:
    for op in operations(module, "while"):
        if counter := counter_of(op):
            _exchange(op, 0, counter)


def _exchange(loop: hlo.WhileOp, i: int, j: int) -> None:
    """Exchanges the places of two carried values."""
    condition, body = (region.blocks[0] for region in loop.regions)
    for op in (loop.operation, terminator(body)):
        op.operands[i], op.operands[j] = op.operands[j], op.operands[i]
    for values in (condition.arguments, body.arguments, loop.results):
        first, second = values[i], values[j]
        of_first, of_second = list(first.uses), list(second.uses)
        type_of_first = first.type
        first.set_type(second.type)
        second.set_type(type_of_first)
        for uses, value in ((of_first, second), (of_second, first)):
            for use in uses:
                use.owner.operands[use.operand_number] = value
