"""Which ops of a loop's body compute what another loop's body computed before.

An analysis, not a pass. The second loop goes back through the iterations of the first: a value of
one of its iterations is one that the first loop had at iteration %j if it is a saved row %j, the
counter %j itself, a value from outside both, or the same op of such values.
"""

from __future__ import annotations

import math

from jaxlib.mlir import ir
from jaxlib.mlir.dialects import stablehlo as hlo

from metagrad.compiler.analysis.row_access import row_counter
from metagrad.compiler.analysis.trip_values import counters, unchanging


class SameValues:
    """Which ops of the second loop's body compute what an op of the first one's body computed, at
    the iteration that a counter of the second says.

    Args:
      forward: the first loop.
      back: the second loop.
      counter: the position of the second loop's counter that says which iteration of the first
        it goes back through.
      stacks: results of the first loop that stack a value of every iteration, with that value.

    Attributes:
      values: op of the second body -> value of the first. Empty where the loops do not match.
    """

    def __init__(
        self,
        forward: hlo.WhileOp,
        back: hlo.WhileOp,
        counter: int,
        stacks: dict[ir.Value, ir.Value],
    ):
        self.values: dict[ir.Operation, ir.Value] = {}
        first, second = (loop.regions[1].blocks[0] for loop in (forward, back))
        rows = counters(back)[counter]
        trip_counters = {
            i for i, values in counters(forward).items() if values == range(len(values))
        }
        if (
            not rows
            or not trip_counters
            or not {min(rows), max(rows)} <= set(counters(forward)[min(trip_counters)])
        ):
            return
        body_counters = {second.arguments[counter]: rows}
        # A value is known by what stands for it: a value of the first body, or one from outside.
        of_first = unchanging(forward) | {
            first.arguments[i]: first.arguments[min(trip_counters)] for i in trip_counters
        }
        of_second = unchanging(back) | {
            second.arguments[counter]: first.arguments[min(trip_counters)]
        }
        inside = {argument for argument in second.arguments if argument not in of_second}
        self._table: dict = {}
        self._reshaped: dict[ir.Value, ir.Value] = {}
        for op in list(first.operations)[:-1]:
            if len(op.results) == 1:
                of_first[op.results[0]] = self._value(
                    op, [of_first.get(operand, operand) for operand in op.operands], op.results[0]
                )
        for op in list(second.operations)[:-1]:
            match = None
            if len(op.results) == 1 and not any(operand in inside for operand in op.operands):
                operands = [of_second.get(operand, operand) for operand in op.operands]
                if (
                    operands
                    and operands[0] in stacks
                    and row_counter(op, body_counters) is not None
                ):
                    match = of_first[stacks[operands[0]]]
                else:
                    match = self._value(op, operands)
            if match is None:
                inside.update(op.results)
            else:
                of_second[op.results[0]] = match
                self.values[op.operation] = match

    def _value(
        self, op: ir.OpView, operands: list[ir.Value], new: ir.Value | None = None
    ) -> ir.Value | None:
        """The value of the first body that is this op of these values; `new` if there is none."""
        if _is_reshape(op):
            source = self._reshaped.get(operands[0], operands[0])
            if source.type == op.results[0].type:
                return source
            key = "reshape", str(op.results[0].type), source
        else:
            source, key = None, _key(op, operands)
        if key is None:
            return new
        known_value = self._table.get(key, new)
        if new is not None:
            self._table[key] = known_value
            if source is not None:
                self._reshaped[known_value] = source
        return known_value


def _is_reshape(op: ir.OpView) -> bool:
    """Whether the op only writes the shape anew, as a broadcast that adds dimensions of one does
    too.
    """
    if op.operation.name == "stablehlo.broadcast_in_dim":
        dims = list(op.broadcast_dimensions)
        return dims == sorted(dims) and math.prod(op.operands[0].type.shape) == math.prod(
            op.results[0].type.shape
        )
    return op.operation.name == "stablehlo.reshape"


def _key(op: ir.OpView, operands: list[ir.Value]):
    """Equal for ops that compute the same from the same; None for ops that are not compared."""
    name = op.operation.name
    regions = tuple(_region_key(region) for region in op.regions)
    if None in regions or name in ("stablehlo.while", "stablehlo.custom_call", "stablehlo.rng"):
        return None
    if name == "stablehlo.constant" and isinstance(op.results[0].type.element_type, ir.ComplexType):
        return None  # jaxlib fails to read its value
    attributes = tuple((attribute, str(op.attributes[attribute])) for attribute in op.attributes)
    return name, attributes, str(op.results[0].type), regions, tuple(operands)


def _region_key(region: ir.Region):
    """A reduction's body: its ops, with operands by their place.

    None where it reads something from outside.
    """
    block = region.blocks[0]
    places: dict[ir.Value, int] = {argument: i for i, argument in enumerate(block.arguments)}
    ops = []
    for op in block.operations:
        if op.regions or any(operand not in places for operand in op.operands):
            return None
        ops.append(
            (
                op.operation.name,
                str(op.attributes),
                tuple(places[operand] for operand in op.operands),
            )
        )
        places |= {result: len(places) + i for i, result in enumerate(op.results)}
    return tuple(ops)
