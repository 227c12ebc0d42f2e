"""How many operations a function takes, counted on its text. An analysis, not a pass.

It is for the choice of a plan when nothing has been measured: right within a small factor for what
is bound by products, and no more is asked of it. A product of matrices or a convolution counts 2
for each multiplication and addition; any other op counts `ELEMENTWISE` for each element of its
results, since it is bound by memory. Each op counts `START` besides. A loop counts its body as
often as it runs, once if that is not known.
"""

from __future__ import annotations

import math
from collections.abc import Collection

from jaxlib.mlir import ir
from jaxlib.mlir.dialects import func
from jaxlib.mlir.dialects import stablehlo as hlo

from metagrad.compiler.analysis.trip_values import counters
from metagrad.compiler.dialect import functions

ELEMENTWISE = 4
"""Operations of a product that take as long as one element that is read and written. XLA fuses some
three of such ops into one."""

START = 2000
"""Operations of a product that take as long as starting an op: some 40 ns, as a kernel of several
ops takes some 100 to 200 ns."""


def count(module: ir.Module, name: str, free: Collection[str] = ()) -> float:
    """The operations of a function, with those that it calls.

    Args:
      free: ops that are not counted: of a module that no pass has tidied up, those that XLA always
        fuses with what reads them.
    """
    return _Counter(module, free).of_function(name)


class _Counter:
    def __init__(self, module: ir.Module, free: Collection[str]):
        self._module = module
        self._free = {"stablehlo.constant", *free}
        self._known: dict[str, float] = {}

    def of_function(self, name: str) -> float:
        if name not in self._known:
            function = functions.find(self._module, name)
            self._known[name] = 0.0 if function is None else self._of(functions.body(function))
        return self._known[name]

    def _of(self, block: ir.Block) -> float:
        return sum(self._of_op(op) for op in block.operations)

    def _of_op(self, op: ir.OpView) -> float:
        if isinstance(op, func.CallOp):
            return self.of_function(op.callee.value)
        if isinstance(op, hlo.WhileOp):
            trips = max((len(values) for values in counters(op).values()), default=1)
            return trips * self._of(op.regions[1].blocks[0])
        if isinstance(op, hlo.DotGeneralOp):
            return START + 2.0 * _elements(op.results[0]) * _contracted(op)
        if isinstance(op, hlo.ConvolutionOp):
            return START + 2.0 * _elements(op.results[0]) * _window(op)
        inside = max((self._of(block) for r in op.regions for block in r.blocks), default=0.0)
        if op.operation.name in ("stablehlo.case", "stablehlo.if"):
            return inside
        if op.operation.name in self._free:
            return 0.0
        return START + float(ELEMENTWISE * sum(map(_elements, op.results)))


def _elements(value: ir.Value) -> int:
    return math.prod(value.type.shape) if isinstance(value.type, ir.RankedTensorType) else 0


def _contracted(op: hlo.DotGeneralOp) -> int:
    """The length of the sums of a product: left and right elements over those of the result."""
    left, right, result = map(_elements, (*op.operands, op.results[0]))
    if result == 0:
        return 0
    batch = 1
    shape = op.operands[0].type.shape
    for axis in hlo.DotDimensionNumbers(op.dot_dimension_numbers).lhs_batching_dimensions:
        batch *= shape[axis]
    return max(1, round(math.sqrt(left * right / (result * batch))))


def _window(op: hlo.ConvolutionOp) -> int:
    """The length of the sums of a convolution: elements of the kernel for each output feature."""
    kernel = op.operands[1].type.shape
    numbers = hlo.ConvDimensionNumbers(op.dimension_numbers)
    return math.prod(kernel) // max(1, kernel[numbers.kernel_output_feature_dimension])
