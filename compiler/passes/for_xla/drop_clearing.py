"""Lets a loop read rows of an array where they are, if it would clear each of them when it has read
it.

    while (%j = 3, %a = %d) { %r = dynamic_slice %a, %j; %n = dynamic_update_slice %a, 0, %j; ...; return subtract %j, 1, %n }
->
    while (%j = 3, %a = %d) { %r = dynamic_slice %d, %j; ...; return subtract %j, 1, %a }

The cotangent of what a loop writes row by row comes like this: a row that was overwritten has no
cotangent any more. No row is read twice, so nobody sees the zeros, and XLA copies the whole array
at every turn to read from it and write to it.
"""

from __future__ import annotations

from jaxlib.mlir import ir
from jaxlib.mlir.dialects import stablehlo as hlo

from metagrad.compiler.analysis.induction_variables import terminator
from metagrad.compiler.analysis.row_access import row_number
from metagrad.compiler.analysis.trip_values import counters
from metagrad.compiler.dialect.matching import erase_unused, operations, producer, users

NAME = "drop-clearing"


def run(module: ir.Module) -> None:
    for loop in operations(module, "while"):
        known = counters(loop)
        for index in range(len(loop.operands)) if known else ():
            _read_in_place(loop, index, known)


def _read_in_place(loop: hlo.WhileOp, index: int, known: dict[int, range]) -> None:
    if users(loop.results[index]):
        return
    body = loop.regions[1].blocks[0]
    argument, end = body.arguments[index], terminator(body)
    written = producer(end.operands[index], "dynamic_update_slice")
    if written is None or written.operands[0] != argument or users(written.results[0]) != [end]:
        return
    numbers = {body.arguments[i]: rows for i, rows in known.items()}
    at = row_number(written, numbers)
    readers = [user for user in users(argument) if user != written.operation]
    if at is None or any(
        reader.name != "stablehlo.dynamic_slice" or row_number(reader.opview, numbers) != at
        for reader in readers
    ):
        return
    for reader in readers:
        reader.operands[0] = loop.operands[index]
    end.operands[index] = argument
    erase_unused(written.operation)
