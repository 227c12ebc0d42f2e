"""Reverses the kernel of a convolution by an op of its own, where the convolution would read it in
reverse.

    convolution(%x, %w) window = {reverse = [true, true]}
->
    %r = reverse %w, dims = [0, 1]        convolution(%x, %r)

The gradient of a convolution's input is such a convolution. XLA's CPU backend has fast code only
for kernels that are read forwards; for the others its fallback is a scalar loop. A kernel is small,
so the reversal costs nothing.
"""

from __future__ import annotations

from typing import Any

from jaxlib.mlir import ir
from jaxlib.mlir.dialects import stablehlo as hlo

from metagrad.compiler.dialect.matching import operations

NAME = "reverse-kernels"


def run(module: ir.Module) -> None:
    for op in operations(module, "convolution"):
        if "window_reversal" in op.attributes:
            _reverse(op)


def _reverse(op: Any) -> None:
    spatial = hlo.ConvDimensionNumbers(op.dimension_numbers).kernel_spatial_dimensions
    dims = sorted(dim for dim, reversed_ in zip(spatial, op.window_reversal) if reversed_)
    if dims:
        with ir.InsertionPoint(op), op.location:
            op.operands[1] = hlo.reverse(op.rhs, ir.DenseI64ArrayAttr.get(dims))
    del op.attributes["window_reversal"]
