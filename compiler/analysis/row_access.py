"""Rows of stacked arrays that a loop reads or writes, one at each iteration.

An analysis, not a pass.
"""

from __future__ import annotations

from jaxlib.mlir import ir

from metagrad.compiler.analysis.trip_values import integer
from metagrad.compiler.dialect.matching import producer


def row_counter(op: ir.OpView, counters: dict[ir.Value, range]) -> ir.Value | None:
    """The counter %i of a `dynamic_slice` or `dynamic_update_slice` of row %i of a stacked array.

    None where the op is another, takes something other than one whole row, or may take the same
    row at two iterations.

    Args:
      op: any op.
      counters: the counters that the loop's body sees, with the values that they take.
    """
    name = op.operation.name
    if name not in ("stablehlo.dynamic_slice", "stablehlo.dynamic_update_slice"):
        return None
    whole, *rest = op.operands
    piece, start = (
        (op.results[0], rest) if name == "stablehlo.dynamic_slice" else (rest[0], rest[1:])
    )
    if (
        not start
        or list(piece.type.shape) != [1, *whole.type.shape[1:]]
        or any(integer(other) != 0 for other in start[1:])
    ):
        return None
    counter = unconverted(start[0])
    if counter not in counters:
        return None
    rows = counters[counter]
    # A row number out of bounds is clamped, and then two iterations could mean the same row.
    in_bounds = bool(rows) and min(rows) >= 0 and max(rows) < whole.type.shape[0]
    return counter if in_bounds else None


def unconverted(value: ir.Value) -> ir.Value:
    """The integer that was converted to another width. (Row numbers fit into any.)"""
    while (conversion := producer(value, "convert")) is not None and isinstance(
        conversion.operands[0].type.element_type, ir.IntegerType
    ):
        value = conversion.operands[0]
    return value
