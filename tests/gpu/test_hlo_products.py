"""Products of a compiled program: by whom, in which types, and whether bf16 was widened."""

import re

import pytest

from benchmarks.hlo.products import libraries, products, stablehlo_products
from benchmarks.hlo.text import parse

_SHORT = """\
HloModule products

%gemm (p0: bf16[8,4], p1: bf16[4,2]) -> f32[8,2] {
  %p0 = bf16[8,4]{1,0} parameter(0)
  %p1 = bf16[4,2]{1,0} parameter(1)
  ROOT %d = f32[8,2]{1,0} dot(%p0, %p1), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

%tile (t: bf16[8,4]) -> f32[8,4] {
  %t = bf16[8,4]{1,0} parameter(0)
  ROOT %w = f32[8,4]{1,0} convert(%t)
}

%wide_gemm (q0: bf16[8,4], q1: f32[2,4]) -> f32[8,2] {
  %q0 = bf16[8,4]{1,0} parameter(0)
  %q1 = f32[2,4]{1,0} parameter(1)
  %left = f32[8,4]{1,0} fusion(%q0), calls=%tile, BY(__triton_nested_gemm_fusion)
  %right = f32[4,2]{0,1} bitcast(%q1)
  ROOT %e = f32[8,2]{1,0} dot(%left, %right), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

%softmax (s: f32[8,2]) -> f32[8,2] {
  %s = f32[8,2]{1,0} parameter(0)
  ROOT %x = f32[8,2]{1,0} exponential(%s)
}

ENTRY %main (a: bf16[8,4], b: bf16[4,2], c: f32[4,2], v: FORMAT[2,4]) -> f32[8,2] {
  %a = bf16[8,4]{1,0} parameter(0)
  %b = bf16[4,2]{1,0} parameter(1)
  %c = f32[4,2]{1,0} parameter(2)
  %v = FORMAT[2,4]{1,0} parameter(3)
  %vw = f32[2,4]{1,0} convert(%v)
  %one = f32[8,2]{1,0} fusion(%a, %b), calls=%gemm, BY(__triton_gemm)
  %two = f32[8,2]{1,0} fusion(%a, %vw), calls=%wide_gemm, BY(__triton_gemm)
  %aw = f32[8,4]{1,0} convert(%a)
  %three = (f32[8,2]{1,0}, s8[64]{0}) custom-call(%aw, %c), custom_call_target="__cublas$lt$matmul"
  %four = (f32[8,2]{1,0}, s8[64]{0}) custom-call(%aw, %c), custom_call_target="__cudnn$convForward"
  %sort = f32[8,2]{1,0} custom-call(%one), custom_call_target="__cub$DeviceRadixSort"
  ROOT %five = f32[8,2]{1,0} fusion(%one), calls=%softmax, BY(__triton)
}
"""

# Who compiles a fusion is in its backend configuration.
TEXT = re.sub(
    r"BY\((\w+)\)",
    r'kind=kCustom, backend_config={"fusion_backend_config":{"kind":"\1"}}',
    _SHORT,
)


def found(dtype):
    return products(parse(TEXT.replace("FORMAT", dtype)))


def test_who_computes_them():
    by = [each.by for each in found("bf16")]
    assert sorted(by) == ["Triton", "Triton", "cuBLASLt", "cuDNN"]


def test_types():
    assert sorted(map(str, found("bf16"))) == [
        "bf16 x bf16 -> f32",
        "f32 x f32 -> f32",
        "f32 x f32 -> f32",
        "f32 x f32 -> f32",
    ]


@pytest.mark.parametrize("dtype, widened", [("bf16", 1), ("f16", 0), ("s8", 0)])
def test_a_product_is_widened_if_both_operands_were_bf16(dtype, widened):
    """One operand is converted within a fusion, the other before it. A product with one operand
    that was f32 all the time is not a product of bf16 numbers."""
    assert sum(each.is_widened for each in found(dtype)) == widened


def test_libraries_are_counted_by_call():
    assert libraries(parse(TEXT.replace("FORMAT", "bf16"))) == {
        "__triton_gemm with a product": 2,
        "__cublas$lt$matmul": 1,
        "__cudnn$convForward": 1,
        "__cub$DeviceRadixSort": 1,
        "__triton": 1,
    }


def test_products_of_stablehlo():
    of = "(tensor<8x4x{0}>, tensor<4x2x{0}>) -> tensor<8x2x{1}>"
    text = f"""
      %0 = stablehlo.dot_general %a, %b, contracting_dims = [1] x [0] : {of.format("bf16", "f32")}
      %1 = stablehlo.dot_general %a, %b, contracting_dims = [1] x [0] : {of.format("f32", "f32")}
      %2 = stablehlo.convolution(%x, %k)
        dim_numbers = [b, 0, f]x[0, i, o]->[b, 0, f] : {of.format("bf16", "bf16")}
    """
    assert stablehlo_products(text) == {
        "bf16 x bf16 -> f32": 1,
        "f32 x f32 -> f32": 1,
        "bf16 x bf16 -> bf16": 1,
    }
