"""Brings convolutions into the one layout for which XLA's CPU backend has a fast kernel.

    convolution(%x, %w) dim_numbers = [f, 0, 1, b]x[i, 0, 1, o]->[0, 1, b, f]
->
    %a = transpose %x
    %b = transpose %w
    %c = convolution(%a, %b) dim_numbers = [b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]
    transpose %c

XLA does this by itself, but only in a program's outermost computation (its pass
`ConvCanonicalization`), and all of a metagradient runs inside loops. The gradients of a convolution
come in other layouts, and there its fallback is a scalar loop.
"""

from __future__ import annotations

from jaxlib.mlir import ir
from jaxlib.mlir.dialects import stablehlo as hlo

from metagrad.compiler.dialect.matching import operations

NAME = "canonicalise-convolutions"


def run(module: ir.Module) -> None:
    for op in operations(module, "convolution"):
        _canonicalise(op)


def _canonicalise(op: hlo.ConvolutionOp) -> None:
    numbers = hlo.ConvDimensionNumbers(op.dimension_numbers)
    orders = [
        [
            numbers.input_batch_dimension,
            *numbers.input_spatial_dimensions,
            numbers.input_feature_dimension,
        ],
        [
            *numbers.kernel_spatial_dimensions,
            numbers.kernel_input_feature_dimension,
            numbers.kernel_output_feature_dimension,
        ],
        [
            numbers.output_batch_dimension,
            *numbers.output_spatial_dimensions,
            numbers.output_feature_dimension,
        ],
    ]
    if all(dims == sorted(dims) for dims in orders):
        return
    rank = len(orders[0])
    spatial = list(range(1, rank - 1))
    result = op.results[0]
    # orders[2][i] is where dimension i of the canonical result goes.
    back = [orders[2].index(i) for i in range(rank)]
    canonical = ir.RankedTensorType.get(
        [result.type.shape[dim] for dim in orders[2]], result.type.element_type
    )
    attributes = {name: op.attributes[name] for name in op.attributes}
    attributes["dimension_numbers"] = hlo.ConvDimensionNumbers.get(
        0, rank - 1, spatial, rank - 2, rank - 1, list(range(rank - 2)), 0, rank - 1, spatial
    )
    with ir.InsertionPoint(op), op.location:
        operands = [_transpose(op.lhs, orders[0]), _transpose(op.rhs, orders[1])]
        convolution = ir.Operation.create(
            "stablehlo.convolution", results=[canonical], operands=operands, attributes=attributes
        )
        whole = _transpose(convolution.result, back)
    result.replace_all_uses_with(whole)
    op.operation.erase()


def _transpose(value: ir.Value, order: list[int]) -> ir.Value:
    return (
        value if order == sorted(order) else hlo.transpose(value, ir.DenseI64ArrayAttr.get(order))
    )
