"""The plan as a value: its checks, its counts, its text, and how it is stored."""

import dataclasses
import json

import numpy as np
import pytest

from metagrad.runtime.schedules import Binomial, LazyKary, Periodic, StoreAll
from metagrad.runtime.schedules.plan import Plan


def test_counts():
    plan = Periodic(3).plan(6, gradients=True)
    assert (plan.advances, plan.updates, plan.vjps, plan.gradients_on_the_spot) == (8, 0, 6, 1)
    assert (plan.saves, plan.loads, plan.keeps, plan.runs) == (4, 7, 5, 6)
    assert (plan.state_slots, plan.gradient_slots) == (4, 3)
    assert plan.slot_bytes(state_bytes=100, gradient_bytes=10) == 430


def test_tables_are_int32_and_read_only():
    plan = LazyKary().plan(30, gradients=True)
    table = np.array(plan.load, np.int64)
    again = dataclasses.replace(plan, load=table)
    assert again.load.dtype == np.int32
    with pytest.raises(ValueError, match="read-only"):
        again.load[0] = 1
    table[0] = 7  # the caller's array is still the caller's
    assert plan == again and hash(plan) == hash(again)
    assert plan != LazyKary().plan(31, gradients=True)


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"steps": 0}, ValueError, "Plan.steps must be at least 1, got 0"),
        ({"steps": True}, TypeError, "Plan.steps must be an int, got True"),
        (
            {"steps": 7},
            ValueError,
            r"Plan.load must be one-dimensional of length 8, got shape \(7,\)",
        ),
        ({"state_slots": 0}, ValueError, "Plan.state_slots must be at least 1"),
        ({"gradient_slots": -1}, ValueError, "Plan.gradient_slots must be at least 0"),
        ({"gradient_slots": 1.0}, TypeError, "Plan.gradient_slots must be an int"),
        (
            {"run_save": np.zeros(2, np.int32)},
            ValueError,
            r"Plan.run_save must be one-dimensional of length 6, got shape \(2,\)",
        ),
        (
            {"gradient": np.zeros(7)},
            TypeError,
            "Plan.gradient must hold integers, got dtype float64",
        ),
        ({"load": np.full(7, 2**40)}, ValueError, "Plan.load does not fit in int32"),
        ({"load": np.zeros((7, 1), np.int32)}, ValueError, "Plan.load must be one-dimensional"),
    ],
)
def test_ill_formed_tables_are_refused(change, error, message):
    with pytest.raises(error, match=message):
        dataclasses.replace(Periodic(3).plan(6, gradients=True), **change)


@pytest.mark.parametrize(
    "schedule", [LazyKary(3, rebuild=2), Binomial(4), StoreAll(keep_gradients=False)]
)
def test_a_plan_is_stored_and_read_again(schedule):
    plan = schedule.plan(77, gradients=True)
    again = Plan.from_jsonable(json.loads(json.dumps(plan.jsonable())))
    assert again == plan and again.schedule == str(schedule)


def test_damaged_plans_are_not_read():
    stored = Binomial(3).plan(9, gradients=True).jsonable()
    with pytest.raises(ValueError, match="not a stored plan of format 1: found 2"):
        Plan.from_jsonable(stored | {"format": 2})
    with pytest.raises(ValueError, match="not a stored plan of format 1: found 'list'"):
        Plan.from_jsonable([])
    for damage in ({"load": stored["gradient"][:-8]}, {"steps": 8}, {"run_steps": "!"}):
        with pytest.raises(ValueError, match="the stored plan is damaged"):
            Plan.from_jsonable(stored | damage)
    del stored["load"]
    with pytest.raises(ValueError, match="the stored plan is damaged"):
        Plan.from_jsonable(stored)


def test_the_text_of_a_small_plan():
    lines = str(LazyKary(2).plan(8, gradients=True)).splitlines()
    assert lines[0] == "LazyKary(k=2): 8 steps"
    assert lines[1] == "  slots      4 states, 2 gradients"
    assert lines[7:] == [
        "  states  0 .. 8",
        "  train   o───S─SS═",
        "  VJP     ······<<·",
        "  replay  ····o═···",
        "  VJP     ····<<···",
        "  replay  o─S═·····",
        "  VJP     ··<<·····",
        "  replay  o═·······",
        "  VJP     <<·······",
        "  o loaded  S saved  ─ step  ═ step, gradient kept  < VJP  "
        "~ VJP, its state rebuilt from kept gradients",
    ]


@pytest.mark.parametrize("T", [1, 71, 72, 100, 5000])
@pytest.mark.parametrize(
    "schedule", [LazyKary(4), Binomial(24), Binomial(1), Periodic(10, rebuild=4), StoreAll()]
)
def test_the_text_of_a_large_plan_is_clipped(schedule, T):
    lines = str(schedule.plan(T, gradients=True)).splitlines()
    assert len(lines) <= 30 and all(len(line) <= 110 for line in lines)
    assert lines[0].startswith(f"{schedule}: {T:,} step")
