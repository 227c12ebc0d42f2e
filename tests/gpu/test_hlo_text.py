"""Optimised HLO is read from its text: types, operands, called computations."""

import pytest

from benchmarks.hlo.text import Array, leaves, parse

TEXT = """\
HloModule jit_f, is_scheduled=true, entry_computation_layout={(f32[8,4]{1,0})->f32[8,4]{1,0}}

%fused (p0: f32[8,4], p1: bf16[4]) -> f32[8,4] {
  %p0 = f32[8,4]{1,0} parameter(0)
  %p1 = bf16[4]{0} parameter(1)
  %wide = f32[4]{0} convert(bf16[4]{0} %p1), metadata={op_name="jit(f)/convert(x, y)"}
  ROOT %sum = f32[8,4]{1,0} add(%p0, %p0)
}

%body (arg: (s32[], /*index=1*/f32[8,4])) -> (s32[], f32[8,4]) {
  %arg = (s32[], f32[8,4]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%arg), index=0
  %one = s32[] constant(1)
  %next = s32[] add(%i, %one)
  ROOT %out = (s32[], f32[8,4]{1,0}) tuple(%next, %arg)
}

%cond (c: (s32[], f32[8,4])) -> pred[] {
  %c = (s32[], f32[8,4]{1,0}) parameter(0)
  ROOT %yes = pred[] constant(true)
}

ENTRY %main.1 (a.1: f32[8,4], b.1: bf16[4]) -> f32[8,4] {
  %a.1 = f32[8,4]{1,0} parameter(0)
  %b.1 = bf16[4]{0} parameter(1)
  %table = s32[2,2]{1,0} constant({ { 1, -2 }, { 3, 4 } })
  %zero = s32[] constant(0)
  %pair = (s32[], f32[8,4]{1,0}) tuple(%zero, %a.1)
  %loop = (s32[], f32[8,4]{1,0}) while(%pair), condition=%cond, body=%body, TRIPS
  %choose = f32[8,4]{1,0} conditional(%zero, %a.1, %a.1), branch_computations={%fused, %other}
  %call = (f32[8,4]{1,0}, s8[1024]{0}) custom-call(%a.1, %b.1), custom_call_target="__cublas$gemm"
  ROOT %fusion = f32[8,4]{1,0:T(8,128)} fusion(%a.1, /*index=1*/%b.1), kind=kLoop, calls=%fused
}
"""


@pytest.fixture(scope="module")
def module():
    trips = '{"known_trip_count":{"n":"16"},"known_init_step":{"init":"0","step":"1"}}'
    return parse(TEXT.replace("TRIPS", f"backend_config={trips}"))


def test_computations_and_their_results(module):
    assert set(module.computations) == {"fused", "body", "cond", "main.1"}
    assert module.entry == "main.1"
    assert module.computations["body"].root == "out"


def test_types(module):
    main = module.computations["main.1"].instructions
    assert main["a.1"].type == Array("f32", (8, 4), "{1,0}")
    assert main["loop"].type == (Array("s32", ()), Array("f32", (8, 4), "{1,0}"))
    assert main["fusion"].type.layout == "{1,0:T(8,128)}"
    assert [path for path, _ in leaves(main["call"].type)] == [(0,), (1,)]


@pytest.mark.parametrize(
    "array, size",
    [
        (Array("f32", (8, 4)), 128),
        (Array("bf16", (3,)), 6),
        (Array("pred", (5,)), 5),
        (Array("s64", ()), 8),
        (Array("f8e4m3fn", (4,)), 4),
        (Array("s4", (4,)), 2),
        (Array("c64", (2,)), 16),
        (Array("token", ()), 0),
    ],
)
def test_bytes(array, size):
    assert array.bytes == size


def test_operands_with_and_without_types(module):
    assert module.computations["fused"].instructions["wide"].operands == ("p1",)
    assert module.computations["main.1"].instructions["fusion"].operands == ("a.1", "b.1")
    assert module.computations["main.1"].instructions["table"].operands == ()


def test_what_instructions_call(module):
    main = module.computations["main.1"].instructions
    assert (main["loop"].body, main["loop"].condition, main["loop"].trips) == ("body", "cond", 16)
    assert main["choose"].branches == ("fused", "other")
    assert main["fusion"].callee == "fused"
    assert main["call"].target == "__cublas$gemm"
    assert module.callers["fused"][1] is main["fusion"]


def test_a_text_without_an_entry():
    with pytest.raises(ValueError, match="no ENTRY"):
        parse("HloModule empty\n")
