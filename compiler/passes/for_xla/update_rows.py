"""Adds to a row of an array in place, where an array with one row that is not zero is added.

    add %a, (dynamic_update_slice 0, %u, %i)
->
    dynamic_update_slice %a, (add (dynamic_slice %a, %i), %u), %i

The cotangent of what a loop reads row by row has this form, at every iteration. As an addition of
whole arrays the loop's cost is quadratic in its trips. What is added elsewhere is zero.
"""

from __future__ import annotations

from jaxlib.mlir import ir
from jaxlib.mlir.dialects import stablehlo as hlo

from metagrad.compiler.dialect.matching import operations, producer, replace, splat

NAME = "update-rows"


def run(module: ir.Module) -> None:
    for op in operations(module, "add"):
        for whole, sparse in (op.operands, reversed(op.operands)):
            update = producer(sparse, "dynamic_update_slice")
            if update is not None and splat(update.operands[0]) == 0:
                _update(op, whole, update)
                break


def _update(op: ir.OpView, whole: ir.Value, update: hlo.DynamicUpdateSliceOp) -> None:
    _, piece, *start = update.operands
    with ir.InsertionPoint(op), op.location:
        before = hlo.dynamic_slice(whole, start, piece.type.shape)
        replace(op, hlo.dynamic_update_slice(whole, hlo.add(before, piece), start))
