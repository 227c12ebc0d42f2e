"""Counts of operations: products exactly, loops as often as they run."""

import pytest
from jaxlib.mlir import ir

from metagrad.compiler.analysis.operations import ELEMENTWISE, START, count
from metagrad.compiler.dialect import context

PRODUCT = START + 2 * 4 * 7 * 5 * 3  # four products of 7x5 and 5x3
TEXT = """
module {
  func.func private @product(%a: tensor<4x7x5xf32>, %b: tensor<4x5x3xf32>) -> tensor<4x7x3xf32> {
    %c = stablehlo.dot_general %a, %b, batching_dims = [0] x [0], contracting_dims = [2] x [1]
        : (tensor<4x7x5xf32>, tensor<4x5x3xf32>) -> tensor<4x7x3xf32>
    return %c : tensor<4x7x3xf32>
  }
  func.func private @loop(%a: tensor<4x7x5xf32>, %b: tensor<4x5x3xf32>) -> tensor<i32> {
    %zero = stablehlo.constant dense<0> : tensor<i32>
    %one = stablehlo.constant dense<1> : tensor<i32>
    %bound = stablehlo.constant dense<9> : tensor<i32>
    %end = stablehlo.while(%i = %zero) : tensor<i32>
    cond {
      %more = stablehlo.compare LT, %i, %bound, SIGNED : (tensor<i32>, tensor<i32>) -> tensor<i1>
      stablehlo.return %more : tensor<i1>
    } do {
      %c = func.call @product(%a, %b)
          : (tensor<4x7x5xf32>, tensor<4x5x3xf32>) -> tensor<4x7x3xf32>
      %next = stablehlo.add %i, %one : tensor<i32>
      stablehlo.return %next : tensor<i32>
    }
    return %end : tensor<i32>
  }
  func.func private @convolution(%x: tensor<1x8x8x3xf32>, %k: tensor<3x3x3x16xf32>)
      -> tensor<1x6x6x16xf32> {
    %y = stablehlo.convolution(%x, %k) dim_numbers = [b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f],
        window = {} {batch_group_count = 1 : i64, feature_group_count = 1 : i64}
        : (tensor<1x8x8x3xf32>, tensor<3x3x3x16xf32>) -> tensor<1x6x6x16xf32>
    return %y : tensor<1x6x6x16xf32>
  }
}
"""


@pytest.mark.parametrize(
    "name, operations",
    [
        ("product", PRODUCT),
        ("convolution", START + 2 * (6 * 6 * 16) * (3 * 3 * 3)),
        ("absent", 0),
    ],
)
def test_products(name, operations):
    module = context.parse(TEXT)
    with module.context, ir.Location.unknown():
        # What a return starts is not of interest.
        assert operations <= count(module, name) <= operations + START


def test_a_loop_counts_its_body_as_often_as_it_runs():
    module = context.parse(TEXT)
    with module.context, ir.Location.unknown():
        body = count(module, "product") + START + ELEMENTWISE  # the counter
        assert 9 * body <= count(module, "loop") <= 9 * (body + START) + START
