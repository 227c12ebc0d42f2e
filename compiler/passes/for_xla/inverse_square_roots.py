"""Multiplies by the derivative of an inverse square root, where Enzyme divides by its inverse.

    divide %t, (multiply -2, (multiply %x, (sqrt %x)))
->
    multiply %t, (multiply -0.5, (divide (rsqrt %x), %x))

The number is the same, in the form in which JAX has it. A multiplication of %t is fused by XLA with
what reads it, but a division is computed apart: the tangents of every normalisation wait for it,
and the values that they meet are kept for longer.
"""

from __future__ import annotations

from jaxlib.mlir import ir
from jaxlib.mlir.dialects import stablehlo as hlo

from metagrad.compiler.dialect.matching import operations, producer, replace, splat

NAME = "inverse-square-roots"


def run(module: ir.Module) -> None:
    for op in operations(module, "divide"):
        x = _of_inverse(op.operands[1])
        if x is not None:
            with ir.InsertionPoint(op), op.location:
                half = hlo.constant(
                    ir.DenseElementsAttr.get_splat(
                        x.type, ir.FloatAttr.get(x.type.element_type, -0.5)
                    )
                )
                replace(
                    op,
                    hlo.multiply(op.operands[0], hlo.multiply(half, hlo.divide(hlo.rsqrt(x), x))),
                )


def _of_inverse(value: ir.Value) -> ir.Value | None:
    """%x of `-2 (x sqrt(x))`."""
    product = producer(value, "multiply")
    for number, power in (
        (product.operands, reversed(product.operands)) if product is not None else ()
    ):
        power = producer(power, "multiply")
        if power is not None and splat(number) == -2:
            x, root = power.operands
            sqrt = producer(root, "sqrt")
            if sqrt is not None and sqrt.operands[0] == x:
                return x
    return None
