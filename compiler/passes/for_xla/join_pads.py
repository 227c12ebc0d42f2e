"""Puts side by side what is padded with zeros and added.

    add (pad %a, 0, low = [0, 0], high = [0, 3]), (pad %b, 0, low = [0, 2], high = [0, 0])
->
    concatenate %a, %b, dim = 1                        for %a: tensor<4x2>, %b: tensor<4x3>

The cotangent of what is split into pieces (the gates of an LSTM; query, key and value) comes as
such a sum. XLA computes each element of it from every piece. Pieces that do not fill the array are
padded together, and joined with the next. What is added elsewhere is zero.
"""

from __future__ import annotations

from typing import Any

from jaxlib.mlir import ir
from jaxlib.mlir.dialects import stablehlo as hlo

from metagrad.compiler.dialect.matching import operations, producer, replace, splat

NAME = "join-pads"


def run(module: ir.Module) -> None:
    for op in operations(module, "add"):
        pads = [producer(term, "pad") for term in op.operands]
        if all(pad is not None for pad in pads):
            _join(op, *pads)


def _join(op: ir.OpView, first: hlo.PadOp, second: hlo.PadOp) -> None:
    one, other = _side(first), _side(second)
    if one is None or other is None or one[0] != other[0]:
        return
    if one[1] > other[1]:
        first, second, one, other = second, first, other, one
    (dim, start, middle), (_, begin, end) = one, other
    if middle != begin:
        return
    rank, size = len(op.results[0].type.shape), op.results[0].type.shape[dim]
    at = lambda number: ir.DenseI64ArrayAttr.get([number if i == dim else 0 for i in range(rank)])
    with ir.InsertionPoint(op), op.location:
        joined = hlo.concatenate([first.operands[0], second.operands[0]], dim)
        replace(
            op,
            joined
            if (start, end) == (0, size)
            else hlo.pad(joined, first.operands[1], at(start), at(size - end), at(0)),
        )


def _side(pad: Any) -> tuple[int, int, int] | None:
    """(dimension, first, end): where the operand lies in the one dimension that is padded, with
    zeros at its ends alone.
    """
    low, high, interior = (
        list(pad.attributes[name])
        for name in ("edge_padding_low", "edge_padding_high", "interior_padding")
    )
    padded = [dim for dim in range(len(low)) if low[dim] or high[dim]]
    if len(padded) != 1 or any(interior) or min(*low, *high) < 0 or splat(pad.operands[1]) != 0:
        return None
    (dim,) = padded
    return dim, low[dim], low[dim] + pad.operands[0].type.shape[dim]
