"""The values that a loop's counters take, where they are known. An analysis, not a pass.

    while (%i = 0, %j = 3, ...) cond { compare LT, %i, 4 } do {
      ...
      return add %i, 1, subtract %j, 1, ...
    }
    %i: range(0, 4)      %j: range(3, -1, -1)

Loops that JAX writes for `scan`, and those that Enzyme writes to go back through them, have this
form.
"""

from __future__ import annotations

from jaxlib.mlir import ir
from jaxlib.mlir.dialects import stablehlo as hlo

from metagrad.compiler.analysis.induction_variables import counter_of, endings, terminator
from metagrad.compiler.dialect.matching import producer


def counters(loop: hlo.WhileOp) -> dict[int, range]:
    """Position among what the loop carries -> the values at the first, second, ... iteration.

    Empty where the number of trips is not known.
    """
    index = counter_of(loop)
    if index is None:
        return {}
    condition = loop.regions[0].blocks[0]
    test, _ = endings(loop, index)
    first, step, bound = (
        integer(loop.operands[index]),
        _step(loop, index),
        integer(test.operands[1]),
    )
    if (
        str(test.attributes["comparison_direction"]) != "#stablehlo<comparison_direction LT>"
        or test.operands[0] != condition.arguments[index]
    ):
        return {}
    if first is None or bound is None or step is None or step <= 0:
        return {}
    trips = len(range(first, bound, step))
    values = {}
    for i, start in enumerate(loop.operands):
        first, step = integer(start), _step(loop, i)
        if first is not None and step:
            values[i] = range(first, first + step * trips, step)
    return values


def unchanging(loop: hlo.WhileOp) -> dict[ir.Value, ir.Value]:
    """What the body sees of values that it only hands on -> where they come from."""
    body = loop.regions[1].blocks[0]
    returned = terminator(body).operands
    return {
        argument: start
        for argument, start, following in zip(body.arguments, loop.operands, returned)
        if following == argument
    }


def integer(value: ir.Value) -> int | None:
    """The number that a scalar integer constant is."""
    constant = producer(value, "constant")
    if (
        constant is None
        or value.type.shape
        or not isinstance(value.type.element_type, ir.IntegerType)
    ):
        return None
    return int(constant.attributes["value"][0])


def _step(loop: hlo.WhileOp, index: int) -> int | None:
    """By how much an iteration changes a carried value."""
    body = loop.regions[1].blocks[0]
    argument, following = body.arguments[index], terminator(body).operands[index]
    added, subtracted = producer(following, "add"), producer(following, "subtract")
    if added is not None and argument in list(added.operands):
        first, second = added.operands
        return integer(second if first == argument else first)
    if subtracted is not None and subtracted.operands[0] == argument:
        amount = integer(subtracted.operands[1])
        return None if amount is None else -amount
    return None
