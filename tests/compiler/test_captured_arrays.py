"""Arrays from outside become arguments: of helper functions first, of @main at the end."""

import re

import pytest
from jaxlib.mlir import ir

from metagrad.compiler.dialect import captured, context

CALL = "stablehlo.custom_call @metagrad.captured() {mhlo.backend_config = {index = %d : i64}}"
MODULE = f"""
module {{
  func.func public @step(%x: tensor<3xf32>) -> tensor<3xf32> {{
    %0 = func.call @helper(%x) : (tensor<3xf32>) -> tensor<3xf32>
    %1 = func.call @loss(%0) : (tensor<3xf32>) -> tensor<3xf32>
    %n = stablehlo.constant dense<2> : tensor<i32>
    %z = stablehlo.constant dense<0> : tensor<i32>
    %2:2 = stablehlo.while(%i = %z, %a = %1) : tensor<i32>, tensor<3xf32> cond {{
      %p = stablehlo.compare LT, %i, %n : (tensor<i32>, tensor<i32>) -> tensor<i1>
      stablehlo.return %p : tensor<i1>
    }} do {{
      %c = {CALL % 0} : () -> tensor<3xf32>
      %d = {CALL % 0} : () -> tensor<3xf32>
      %b = stablehlo.add %a, %c : tensor<3xf32>
      %e = stablehlo.add %b, %d : tensor<3xf32>
      stablehlo.return %i, %e : tensor<i32>, tensor<3xf32>
    }}
    %3 = stablehlo.composite "ours.twice" %2#1 {{decomposition = @twice}}
        : (tensor<3xf32>) -> tensor<3xf32>
    return %3 : tensor<3xf32>
  }}
  func.func private @loss(%x: tensor<3xf32>) -> tensor<3xf32> {{
    %0 = func.call @helper(%x) : (tensor<3xf32>) -> tensor<3xf32>
    return %0 : tensor<3xf32>
  }}
  func.func private @helper(%x: tensor<3xf32>) -> tensor<3xf32> {{
    %0 = func.call @inside(%x) : (tensor<3xf32>) -> tensor<3xf32>
    return %0 : tensor<3xf32>
  }}
  func.func private @inside(%x: tensor<3xf32>) -> tensor<3xf32> {{
    %c = {CALL % 2} : () -> tensor<3xf32>
    %0 = stablehlo.multiply %x, %c : tensor<3xf32>
    return %0 : tensor<3xf32>
  }}
  func.func private @twice(%x: tensor<3xf32>) -> tensor<3xf32> {{
    %c = {CALL % 1} : () -> tensor<3xf32>
    %0 = stablehlo.multiply %x, %c : tensor<3xf32>
    return %0 : tensor<3xf32>
  }}
}}
"""


@pytest.fixture
def module():
    module = context.parse(MODULE)
    with module.context, ir.Location.unknown():
        yield module
        module.operation.verify()


def lines(module, function):
    text = context.text(module)
    body = text[re.search(rf"func\.func \w+ @{function}\(", text).end() - len(function) - 2 :]
    return [line.strip() for line in body[: body.index("\n  }")].splitlines()]


def test_arrays_stand_once_at_the_top_of_a_root(module):
    captured.lift(module, ["step", "loss"])
    step = lines(module, "step")
    assert step[0].startswith("@step(%arg0: tensor<3xf32>) ->")
    assert [f"index = {i}" in line for i, line in enumerate(step[1:4])] == [True] * 3
    assert sum("metagrad.captured" in line for line in step) == 3
    assert "@metagrad.captured" in lines(module, "loss")[1]


def test_helpers_take_them_behind_their_own_arguments(module):
    captured.lift(module, ["step", "loss"])
    for helper in ("helper", "inside", "twice"):
        signature = f"@{helper}(%arg0: tensor<3xf32>, %arg1: tensor<3xf32>) -> tensor<3xf32>"
        assert lines(module, helper)[0].startswith(signature)
        assert not any("metagrad.captured" in line for line in lines(module, helper))
    assert not any("composite" in line for line in lines(module, "step"))


def test_a_root_keeps_its_type_where_another_calls_it(module):
    captured.lift(module, ["step", "loss"])
    assert any("call @loss(%" in line and ", %" not in line for line in lines(module, "step"))


def test_the_program_gets_all_that_are_listed(module):
    three = ir.RankedTensorType.get([3], ir.F32Type.get())
    scalar = ir.RankedTensorType.get([], ir.F32Type.get())
    captured.list_types(module, [three, three, three, scalar])
    captured.become_arguments(module, "step")
    arguments = ", ".join(f"%arg{i}: tensor<3xf32>" for i in range(4))
    assert lines(module, "step")[0].startswith(f"@step({arguments}, %arg4: tensor<f32>) ->")
    assert "metagrad.captured()" not in context.text(module)


def test_nothing_is_listed():
    empty = context.parse("func.func public @main(%x: tensor<f32>) { return }")
    with empty.context, ir.Location.unknown():
        before = context.text(empty)
        captured.lift(empty, ["main"])
        captured.become_arguments(empty, "main")
        assert context.text(empty) == before
