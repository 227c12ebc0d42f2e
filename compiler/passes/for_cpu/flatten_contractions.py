"""Turns products that contract several dimensions into products of matrices.

    %g = dot_general %x, %d, contracting_dims = [0, 1] x [0, 1]
         : (tensor<4x64x512>, tensor<4x64x128>) -> tensor<512x128>
->
    %a = reshape %x : tensor<256x512>
    %b = reshape %d : tensor<256x128>
    %g = dot_general %a, %b, contracting_dims = [0] x [0]

Every weight gradient of a model with a batch and a sequence dimension has this form. XLA's CPU
backend makes such a product a matrix product by transposing an operand, and fuses what computes the
operand into the transposition, once more for each weight gradient. As a product of matrices it
needs neither (`python -m benchmarks.contractions` times the two). The reshapes are free, and the
sum is over the same terms.
"""

from __future__ import annotations

import math

from jaxlib.mlir import ir
from jaxlib.mlir.dialects import stablehlo as hlo

from metagrad.compiler.dialect.matching import operations

NAME = "flatten-contractions"


def run(module: ir.Module) -> None:
    for op in operations(module, "dot_general"):
        _flatten(op)


def _flatten(op: hlo.DotGeneralOp) -> None:
    numbers = hlo.DotDimensionNumbers(op.dot_dimension_numbers)
    left, right = list(numbers.lhs_contracting_dimensions), list(numbers.rhs_contracting_dimensions)
    if len(left) < 2 or list(numbers.lhs_batching_dimensions):
        return
    left_matrix, right_matrix = _matrix(op.lhs, left), _matrix(op.rhs, right)
    if left_matrix is None or right_matrix is None:
        return
    (left_shape, left_dim), (right_shape, right_dim) = left_matrix, right_matrix
    with ir.InsertionPoint(op), op.location:
        operands = [_reshape(op.lhs, left_shape), _reshape(op.rhs, right_shape)]
        free = [left_shape[1 - left_dim], right_shape[1 - right_dim]]
        product = ir.Operation.create(
            "stablehlo.dot_general",
            results=[ir.RankedTensorType.get(free, op.result.type.element_type)],
            operands=operands,
            attributes={name: op.attributes[name] for name in op.attributes}
            | {
                "dot_dimension_numbers": hlo.DotDimensionNumbers.get(
                    [], [], [left_dim], [right_dim]
                )
            },
        )
        whole = (
            product.result
            if product.result.type == op.result.type
            else hlo.reshape(op.result.type, product.result)
        )
    op.result.replace_all_uses_with(whole)
    op.operation.erase()


def _matrix(operand: ir.Value, contracting: list[int]) -> tuple[list[int], int] | None:
    """The matrix that an operand is if its contracting dimensions are one block, first or last:
    (shape, contracting dimension).
    """
    shape = list(operand.type.shape)
    count = len(contracting)
    if contracting == list(range(count)):
        return [math.prod(shape[:count]), math.prod(shape[count:])], 0
    if contracting == list(range(len(shape) - count, len(shape))):
        return [math.prod(shape[:-count]), math.prod(shape[-count:])], 1
    return None


def _reshape(value: ir.Value, shape: list[int]) -> ir.Value:
    return hlo.reshape(ir.RankedTensorType.get(shape, value.type.element_type), value)
