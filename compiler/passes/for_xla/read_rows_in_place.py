"""Reads rows of an array in place where a loop would clear each row when it has read it.

    while (%j = 3, %a = %d) {
      %r = dynamic_slice %a, %j
      %n = dynamic_update_slice %a, 0, %j
      ...
      return subtract %j, 1, %n
    }
->
    while (%j = 3, %a = %d) {
      %r = dynamic_slice %d, %j
      ...
      return subtract %j, 1, %a
    }

The cotangent of what a loop writes row by row comes like this: a row that was overwritten has no
cotangent any more. No row is read twice, so nothing reads the zeros; and to read from the array
and write to it, XLA would copy all of it at every iteration.
"""

from __future__ import annotations

from jaxlib.mlir import ir
from jaxlib.mlir.dialects import stablehlo as hlo

from metagrad.compiler.analysis.induction_variables import terminator
from metagrad.compiler.analysis.row_access import row_counter
from metagrad.compiler.analysis.trip_values import counters
from metagrad.compiler.dialect.matching import erase_unused, operations, producer, users

NAME = "read-rows-in-place"


def run(module: ir.Module) -> None:
    for loop in operations(module, "while"):
        values = counters(loop)
        for index in range(len(loop.operands)) if values else ():
            _read_in_place(loop, index, values)


def _read_in_place(loop: hlo.WhileOp, index: int, values: dict[int, range]) -> None:
    if users(loop.results[index]):
        return
    body = loop.regions[1].blocks[0]
    argument, end = body.arguments[index], terminator(body)
    written = producer(end.operands[index], "dynamic_update_slice")
    if written is None or written.operands[0] != argument or users(written.results[0]) != [end]:
        return
    body_counters = {body.arguments[i]: rows for i, rows in values.items()}
    counter = row_counter(written, body_counters)
    readers = [user for user in users(argument) if user != written.operation]
    if counter is None or any(
        reader.name != "stablehlo.dynamic_slice"
        or row_counter(reader.opview, body_counters) != counter
        for reader in readers
    ):
        return
    for reader in readers:
        reader.operands[0] = loop.operands[index]
    end.operands[index] = argument
    erase_unused(written.operation)
