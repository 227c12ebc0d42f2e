"""The program that pass `schedule` writes holds one copy of each piece of the step, whatever the
schedule and the number of steps.
"""

import collections
import re

import numpy as np
import pytest
from jaxlib.mlir import ir

from metagrad.compiler.dialect import context, functions
from metagrad.compiler.passes import cut, differentiate, expand, pieces, verify
from metagrad.compiler.passes import schedule as schedule_pass
from metagrad.compiler.passes.schedule_loop import SMALL
from metagrad.runtime.schedules import Binomial, LazyKary, Periodic, StoreAll
from metagrad.runtime.schedules.loop_tables import loop_tables

STEP = """
module attributes {metagrad.arguments = {state = 2 : i64, meta = 1 : i64, batch = 1 : i64,
    outer = 1 : i64}, metagrad.wrt = ["meta", "state", "batches"], metagrad.between_steps = [0]} {
  func.func public @step(%w: tensor<3xf32>, %count: tensor<i32>, %z: tensor<3xf32>,
      %b: tensor<3xf32>) -> (tensor<3xf32>, tensor<i32>, tensor<f32>) ATTRIBUTES {
    %v, %g = GRADIENT
    %n = stablehlo.subtract %w, %g : tensor<3xf32>
    %one = stablehlo.constant dense<1> : tensor<i32>
    %next = stablehlo.add %count, %one : tensor<i32>
    return %n, %next, %v : tensor<3xf32>, tensor<i32>, tensor<f32>
  }
  func.func private @loss(%w: tensor<3xf32>, %z: tensor<3xf32>, %b: tensor<3xf32>) -> tensor<f32> {
    %x = stablehlo.multiply %z, %b : tensor<3xf32>
    %t = stablehlo.tanh %w : tensor<3xf32>
    %l = stablehlo.dot_general %t, %x, contracting_dims = [0] x [0]
        : (tensor<3xf32>, tensor<3xf32>) -> tensor<f32>
    return %l : tensor<f32>
  }
  func.func private @value_and_move(%w: tensor<3xf32>, %z: tensor<3xf32>, %b: tensor<3xf32>)
      -> (tensor<f32>, tensor<3xf32>) {
    %l = func.call @loss(%w, %z, %b) : (tensor<3xf32>, tensor<3xf32>, tensor<3xf32>) -> tensor<f32>
    return %l, %z : tensor<f32>, tensor<3xf32>
  }
  func.func private @update_as_run(%w: tensor<3xf32>, %count: tensor<i32>, %z: tensor<3xf32>,
      %b: tensor<3xf32>, %v: tensor<f32>, %g: tensor<3xf32>)
      -> (tensor<3xf32>, tensor<i32>, tensor<f32>) {
    %n = stablehlo.subtract %w, %g : tensor<3xf32>
    return %n, %count, %v : tensor<3xf32>, tensor<i32>, tensor<f32>
  }
  func.func public @outer(%w: tensor<3xf32>, %count: tensor<i32>, %x: tensor<3xf32>)
      -> (tensor<f32>, tensor<3xf32>) {
    %l = stablehlo.dot_general %w, %x, contracting_dims = [0] x [0]
        : (tensor<3xf32>, tensor<3xf32>) -> tensor<f32>
    return %l, %x : tensor<f32>, tensor<3xf32>
  }
}
"""

TYPES = ": (tensor<3xf32>, tensor<3xf32>, tensor<3xf32>) -> (tensor<f32>, tensor<3xf32>)"
WITH_GRADIENT = STEP.replace(
    "GRADIENT", f'"metagrad.grad"(%w, %z, %b) {{loss = @loss, wrt = [0]}} {TYPES}'
).replace("ATTRIBUTES", "")
WITHOUT_GRADIENT = STEP.replace(
    "GRADIENT", f"func.call @value_and_move(%w, %z, %b) {TYPES}"
).replace("ATTRIBUTES", "")
UPDATE_OF_ITS_OWN = WITH_GRADIENT.replace(
    "tensor<f32>)  {", "tensor<f32>) attributes {metagrad.update_run = @update_as_run} {", 1
)

KEEPING = [LazyKary(2), LazyKary(4), LazyKary(3, rebuild=2), Binomial(3), Periodic(4), StoreAll()]
NOT_KEEPING = [
    LazyKary(2, keep_gradients=False),
    Binomial(2, keep_gradients=False),
    StoreAll(keep_gradients=False),
]
STEPS = [2, 9, 64, 3000]


def scheduled(text: str, schedule, steps: int, *, gradients: bool = True) -> ir.Module:
    module = context.parse(text)
    with module.context, ir.Location.unknown():
        cut.run(module)
        differentiate.run(module)
        schedule_pass.run(module, schedule.plan(steps, gradients=gradients))
        verify.run(module)
    return module


def calls(module: ir.Module) -> dict[str, int]:
    """How often @main calls each function."""
    ops = functions.operations(functions.find(module, "main"), "func.call".__eq__)
    return collections.Counter(op.opview.callee.value for op in ops)


def shape(module: ir.Module) -> str:
    """The program's text with all numbers gone: what is left is its structure.

    A table's entries are numbers.
    """
    return re.sub(r"\d+", "N", re.sub(r"dense<[^>]*>", "dense<>", context.text(module)))


@pytest.mark.parametrize("schedule", KEEPING + NOT_KEEPING, ids=str)
def test_one_copy_of_each_piece(schedule):
    for steps in STEPS:
        assert calls(scheduled(WITH_GRADIENT, schedule, steps)) == {
            "inner": 1,
            "update": 1,
            "outer_vjp": 1,
            "step_vjp": 1,
        }


def test_one_copy_of_the_update_as_it_is_run():
    """Where JAX lowered the update for running it, the program runs that, and differentiates the
    other.
    """
    module = context.parse(UPDATE_OF_ITS_OWN)
    with module.context, ir.Location.unknown():
        for pass_module in (cut, differentiate):
            pass_module.run(module)
        assert "fn = @update," in context.text(module)
        for pass_module in (expand, pieces):
            pass_module.run(module)
        schedule_pass.run(module, LazyKary(2).plan(9, gradients=True))
        verify.run(module)
    assert calls(module) == {"inner": 1, "update": 1, "outer_vjp": 1, "step_vjp": 1}
    # The copy that is run does not count its steps.
    assert "stablehlo.add" not in str(functions.find(module, "update"))
    assert functions.find(module, "update_as_run") is None


def test_a_step_without_gradients_has_none_to_compute():
    for schedule in (LazyKary(3), StoreAll()):
        module = scheduled(WITHOUT_GRADIENT, schedule, 9, gradients=False)
        assert calls(module) == {"update": 1, "outer_vjp": 1, "step_vjp": 1}


def test_only_the_numbers_change():
    """Schedules whose plans do the same things give the same program for any number of steps, but
    for its tables, the sizes of its buffers and its bounds.
    """
    shapes = {}
    for schedule in KEEPING + NOT_KEEPING:
        for steps in STEPS:
            plan = schedule.plan(steps, gradients=True)
            features = loop_tables(plan, gradients=True).features
            text = shape(scheduled(WITH_GRADIENT, schedule, steps))
            assert "stablehlo.while" in text
            assert shapes.setdefault(features, text) == text, f"{schedule}, {steps} steps"
    assert 1 < len(shapes) <= 5


def test_buffers_are_as_large_as_the_plan_says():
    plan = LazyKary(5).plan(20, gradients=True)
    module = scheduled(WITH_GRADIENT, LazyKary(5), 20)
    function = functions.find(module, "main")
    loops = [
        op for op in functions.body(function).operations if op.operation.name == "stablehlo.while"
    ]
    assert len(loops) == 1
    sizes = {plan.state_slots + 1, plan.gradient_slots + 1, 3, 20}
    assert len(sizes) == 4  # so that a type says which buffer it is
    carried = collections.Counter(map(str, functions.types(loops[0].operands)))
    # One slot of each kind stands behind those of the plan.
    states, gradients = plan.state_slots + 1, plan.gradient_slots + 1
    assert carried[f"tensor<{states}x3xf32>"] == 1
    assert carried[f"tensor<{states}xi32>"] == 1
    assert carried[f"tensor<{gradients}x3xf32>"] == 1
    assert carried[f"tensor<{gradients}xf32>"] == 1
    # The step's auxiliary result and the cotangents of the batches, one row for each step.
    assert (carried["tensor<20xf32>"], carried["tensor<20x3xf32>"]) == (1, 1)
    # The value and its auxiliary result; cotangents of the first state, of z, of the batches; the
    # final state; the step's auxiliary result.
    assert list(map(str, function.type.results)) == [
        "tensor<f32>",
        "tensor<3xf32>",
        "tensor<3xf32>",
        "tensor<3xf32>",
        "tensor<20x3xf32>",
        "tensor<3xf32>",
        "tensor<i32>",
        "tensor<20xf32>",
    ]


@pytest.mark.parametrize("schedule", KEEPING + NOT_KEEPING, ids=str)
def test_slots_of_large_arrays_are_those_that_are_named(schedule):
    size = SMALL // 4 + 1
    text = WITH_GRADIENT.replace("tensor<3xf32>", f"tensor<{size}xf32>")
    plan = schedule.plan(20, gradients=True)
    tables = loop_tables(plan, gradients=True)
    states, gradients = (
        slots + behind
        for slots, behind in zip((plan.state_slots, plan.gradient_slots), tables.names_behind(plan))
    )
    module = scheduled(text, schedule, 20)
    main = str(functions.find(module, "main"))
    buffers = set(re.findall(rf"tensor<(\d+)x{size}xf32>", main)) - {"20"}
    kept = {gradients} if tables.features.keeps else set()
    assert buffers <= {str(n) for n in {states, 1} | kept}
    assert str(states) in buffers or states == 20


@pytest.mark.parametrize("schedule", [StoreAll(), Binomial(1, rebuild=20)], ids=str)
def test_a_plan_that_keeps_every_gradient_needs_no_slot_behind_them(schedule):
    plan = schedule.plan(20, gradients=True)
    assert plan.gradient_slots == 20
    states, gradients = loop_tables(plan, gradients=True).names_behind(plan)
    assert states and not gradients


def test_large_arrays_are_not_written_in_vain():
    """There each write of a slot is in a loop of zero or one trips; small ones need none."""
    loops = {}
    for size in (3, SMALL // 4 + 1):
        text = WITH_GRADIENT.replace("tensor<3xf32>", f"tensor<{size}xf32>")
        module = scheduled(text, LazyKary(5, keep_gradients=True), 20)
        loops[size] = str(functions.find(module, "main")).count("stablehlo.while")
    small, large = loops.values()
    assert large == small + 2  # one for the states, one for the gradients


@pytest.mark.parametrize("schedule", KEEPING + NOT_KEEPING, ids=str)
@pytest.mark.parametrize("steps", [1, 2, 17, 100])
@pytest.mark.parametrize("gradients", [True, False], ids=["gradients", "no gradients"])
def test_tables(schedule, steps, gradients):
    """Read as loop_tables.py says, on step numbers in place of states, the tables take every
    VJP with its state and its gradient.
    """
    plan = schedule.plan(steps, gradients=gradients)
    tables = loop_tables(plan, gradients=gradients)
    walks, runs, segments = tables.walks, tables.runs, tables.segments
    # A slot behind those of the plan is there if it is named: nothing else is written or read.
    state_behind, gradient_behind = tables.names_behind(plan)
    state_slots = np.full(plan.state_slots + state_behind, -1)
    state_slots[0] = 0
    gradient_slots = np.full(plan.gradient_slots + gradient_behind, -1)
    reversed_steps = []
    for w in range(len(walks["walk_load"])):
        state = state_slots[walks["walk_load"][w]]
        assert state == walks["walk_start"][w]
        for q in range(walks["walk_run"][w], walks["walk_run"][w + 1]):
            steps_of, save, stride, keep, reuse, update = (
                int(runs[f"run_{name}"][q])
                for name in ("steps", "save", "stride", "keep", "reuse", "update")
            )
            for i in range(steps_of):
                inner = gradient_slots[reuse + i] if reuse >= 0 else state
                assert inner == state, "a gradient of another step"
                if keep >= 0:
                    gradient_slots[keep + i] = inner
                state += update
                if save >= 0 and (stride or i == steps_of - 1):
                    state_slots[save + stride * i] = state
        if w == 0:
            assert state == steps
        for r in range(max(1, walks["walk_segment"][w]), walks["walk_segment"][w + 1]):
            state = state_slots[segments["vjp_state"][r]]
            assert state == steps - r
            assert not gradients or gradient_slots[segments["vjp_gradient"][r]] == state
            reversed_steps.append(state)
    assert reversed_steps == list(range(steps))[::-1]
