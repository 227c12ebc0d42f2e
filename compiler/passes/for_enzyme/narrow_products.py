"""Gives products the operands that the user gave them, once Enzyme has differentiated them.

    %a = convert %x {metagrad.widened} : tensor<4x8xbf16> -> tensor<4x8xf32>
    %b = convert %y {metagrad.widened} : tensor<8x2xbf16> -> tensor<8x2xf32>
    dot_general %a, %b : -> tensor<4x2xf32>
->
    dot_general %x, %y : (tensor<4x8xbf16>, tensor<8x2xbf16>) -> tensor<4x2xf32>

Enzyme wants a contraction in one type, so the frontend widens operands
(frontend/exact_lowerings/contractions.py) and marks the conversions. What runs is the product that
was written: on a GPU it is one for the tensor cores. The number is the same, since a product of two
such operands fits the wide type, in which both are summed.

The tangent of an operand is widened like it, without a mark; a product of that and of a marked
operand is narrowed too, as JAX has it. The product of a cotangent is not: the cotangent is as wide
as the result, in JAX as well.
"""

from __future__ import annotations

from jaxlib.mlir import ir

from metagrad.compiler.dialect import functions, metagrad
from metagrad.compiler.dialect.matching import erase_unused, operations, producer

NAME = "narrow-products"


def run(module: ir.Module) -> None:
    for name in ("dot_general", "convolution"):
        for op in operations(module, name):
            _narrow(op.operation)
    for op in functions.operations(module, "stablehlo.convert".__eq__):
        if metagrad.WIDENED in op.attributes:
            del op.attributes[metagrad.WIDENED]


def _narrow(op: ir.Operation) -> None:
    conversions = [producer(operand, "convert") for operand in op.operands]
    if any(conversion is None for conversion in conversions):
        return
    narrow = [conversion.operands[0] for conversion in conversions]
    marked = [metagrad.WIDENED in conversion.attributes for conversion in conversions]
    of_one_type = narrow[0].type.element_type == narrow[1].type.element_type
    if not (all(marked) or (any(marked) and of_one_type)):
        return
    for i, value in enumerate(narrow):
        op.operands[i] = value
    # Both are the same one in a product of an array with itself.
    erase_unused(*(conversion.operation for conversion in conversions))
