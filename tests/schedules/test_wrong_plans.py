"""The native simulator refuses wrong plans, with a message that says where and what."""

import dataclasses

import numpy as np
import oracle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import schedules

from metagrad.runtime.schedules import Binomial, LazyKary, Periodic
from metagrad.runtime.schedules.plan import Plan
from metagrad.runtime.schedules.simulator import simulate

TABLES = ("load", "segment", "run_steps", "run_save", "run_keep", "run_reuse", "gradient")


def changed(plan, table, index, value, **fields):
    values = np.array(getattr(plan, table))
    values[index] = value
    return dataclasses.replace(plan, **{table: values}, **fields)


@settings(max_examples=400, deadline=None)
@given(schedules, st.integers(1, 40), st.sampled_from(TABLES), st.data())
def test_the_simulators_agree_on_what_is_wrong(schedule, T, table, data):
    plan = schedule.plan(T, gradients=True)
    values = getattr(plan, table)
    index = data.draw(st.integers(0, len(values) - 1))
    value = data.draw(
        st.integers(-2, max(int(values.max()) + 2, plan.state_slots, plan.gradient_slots))
    )
    wrong = changed(plan, table, index, value)
    try:
        oracle.run(wrong)
    except oracle.Wrong:
        with pytest.raises(ValueError, match="is wrong: "):
            wrong.validate()
    else:
        wrong.validate()


@settings(max_examples=60, deadline=None)
@given(schedules, st.integers(2, 40))
def test_one_slot_less_is_refused(schedule, T):
    plan = schedule.plan(T, gradients=True)
    for kind in ("state_slots", "gradient_slots"):
        if getattr(plan, kind) > (kind == "state_slots"):
            with pytest.raises(ValueError, match="but the plan has"):
                dataclasses.replace(plan, **{kind: getattr(plan, kind) - 1}).validate()


# Plan of Periodic(3) for 6 steps, by hand:
#   segment 0: [3 -> slot 1] [1 -> slot 2, keep 0] [1 -> slot 3, keep 1] [1, keep 2]
#   segments 1, 2, 3: load 3, 2, 1
#   segment 4: load 0, [1 -> slot 1, keep 0] [1, keep 1]
#   segments 5, 6: load 1, 0
@pytest.fixture
def plan() -> Plan:
    plan = Periodic(3).plan(6, gradients=True)
    assert plan.load.tolist() == [0, 3, 2, 1, 0, 1, 0]
    assert plan.segment.tolist() == [0, 4, 4, 4, 4, 6, 6, 6]
    assert plan.run_steps.tolist() == [3, 1, 1, 1, 1, 1]
    assert plan.run_save.tolist() == [1, 2, 3, -1, 1, -1]
    assert plan.run_keep.tolist() == [-1, 0, 1, 2, 0, 1]
    assert plan.gradient.tolist() == [-1, 2, 1, 0, -1, 1, 0]
    return plan


@pytest.mark.parametrize(
    "table, index, value, message",
    [
        ("load", 0, 1, "segment 0 loads state slot 1, but s_0 is in state slot 0"),
        (
            "load",
            2,
            9,
            "segment 2 (VJP at t = 4) loads state slot 9, but the plan has 4 state slots (0 .. 3)",
        ),
        (
            "load",
            2,
            1,
            "segment 2 (VJP at t = 4) ends at s_3, but the VJP of the step needs s_4; "
            "it loaded state slot 1, which held s_3, and advanced 0 steps",
        ),
        ("segment", 0, 1, "segment[0] is 1, but the training run starts with run 0"),
        ("segment", 2, 3, "segment 1 ends at run 3 before it starts at run 4"),
        ("segment", 7, 5, "segment 6 ends at run 5 before it starts at run 6"),
        (
            "run_steps",
            1,
            0,
            "segment 0 (the training run): run 1 advances 0 steps; a run advances at least one",
        ),
        (
            "run_steps",
            3,
            2,
            "segment 0 (the training run): run 3 advances 2 steps from s_5, "
            "but the training run ends at s_6",
        ),
        (
            "run_steps",
            0,
            2,
            "segment 0 (the training run) ends at s_5, but the outer function needs s_6; "
            "it loaded state slot 0, which held s_0, and advanced 5 steps",
        ),
        (
            "run_save",
            1,
            4,
            "segment 0 (the training run): run 1 saves s_4 in state slot 4, "
            "but the plan has 4 state slots (0 .. 3)",
        ),
        (
            "run_save",
            1,
            -2,
            "segment 0 (the training run): run 1 saves s_4 in state slot -2, "
            "but the plan has 4 state slots (0 .. 3)",
        ),
        (
            "run_save",
            2,
            -1,
            "segment 1 (VJP at t = 5) loads state slot 3 before a state has been saved in it",
        ),
        (
            "run_keep",
            3,
            3,
            "segment 0 (the training run): run 3 keeps gradient slots 3 .. 3, "
            "but the plan has 3 gradient slots (0 .. 2)",
        ),
        (
            "run_keep",
            3,
            -1,
            "segment 1 (VJP at t = 5): the VJP at s_5 takes its gradient from gradient slot 2, "
            "but nothing has been written to that slot",
        ),
        (
            "run_reuse",
            1,
            0,
            "segment 0 (the training run): run 1 both keeps and reuses gradients; "
            "a gradient that is reused is kept already",
        ),
        (
            "run_reuse",
            0,
            0,
            "segment 0 (the training run): run 0 reuses gradient slot 0 for the step from s_0, "
            "but nothing has been written to that slot",
        ),
        ("gradient", 0, 0, "gradient[0] is 0, but segment 0 has no VJP of a step (-1)"),
        (
            "gradient",
            1,
            3,
            "segment 1 (VJP at t = 5): the VJP at s_5 takes its gradient from gradient slot 3, "
            "but the plan has 3 gradient slots (0 .. 2)",
        ),
        (
            "gradient",
            1,
            1,
            "segment 1 (VJP at t = 5): the VJP at s_5 takes its gradient from gradient slot 1, "
            "but that slot holds G_4",
        ),
        (
            "gradient",
            4,
            0,
            "segment 4 (VJP at t = 2): the VJP at s_2 takes its gradient from gradient slot 0, "
            "but that slot holds G_0",
        ),
    ],
)
def test_messages(plan, table, index, value, message):
    with pytest.raises(ValueError) as error:
        changed(plan, table, index, value).validate()
    assert str(error.value) == f"the plan of Periodic(every=3) is wrong: {message}"


def test_a_reused_gradient_of_another_step():
    plan = Periodic(4, rebuild=4).plan(8, gradients=True)
    q = int(np.flatnonzero(plan.run_reuse == 0)[0])
    with pytest.raises(
        ValueError,
        match=r"segment 1 \(VJP at t = 7\): run 0 reuses gradient slot 1 for the step from s_4, "
        "but that slot holds G_5",
    ):
        changed(plan, "run_reuse", q, 1).validate()


def test_the_simulator_tells_slots_that_are_never_used():
    plan = dataclasses.replace(
        LazyKary(2).plan(20, gradients=True), state_slots=30, gradient_slots=7
    )
    assert simulate(plan) == (6, 2)


def test_a_slot_is_in_use_up_to_its_last_read():
    """G_0 is kept again while G_1 still waits for its VJP.

    That takes two slots, though the first G_0 is never read.
    """
    plan = Plan(2, 1, 2, [0, 0, 0], [0, 1, 2, 2], [2, 1], [-1, -1], [0, 0], [-1, -1], [-1, 1, 0])
    assert simulate(plan) == (1, 2)
    assert oracle.run(plan).gradient_peak == 2


def test_a_plan_without_gradient_slots_says_so():
    plan = Binomial(2, keep_gradients=False).plan(4, gradients=True)
    with pytest.raises(ValueError, match="the plan has 0 gradient slots"):
        changed(plan, "gradient", 1, 0).validate()
