"""Rows of stacked arrays that a loop reads or writes, one at each turn. An analysis, not a pass."""

from __future__ import annotations

from jaxlib.mlir import ir

from metagrad.compiler.analysis.trip_values import integer
from metagrad.compiler.dialect.matching import producer


def row_number(op: ir.OpView, counters: dict[ir.Value, range]) -> ir.Value | None:
    """The counter %i of a `dynamic_slice` or `dynamic_update_slice` that takes row %i, all of it,
    of a stacked array, and another row at every turn.

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
    number = unconverted(start[0])
    if number not in counters:
        return None
    rows = counters[number]
    # A row number out of bounds is clamped, and then two turns could mean the same row.
    return number if rows and 0 <= min(rows) and max(rows) < whole.type.shape[0] else None


def unconverted(value: ir.Value) -> ir.Value:
    """The integer that was converted to another width. (Row numbers fit into any.)"""
    while (conversion := producer(value, "convert")) is not None and isinstance(
        conversion.operands[0].type.element_type, ir.IntegerType
    ):
        value = conversion.operands[0]
    return value
