"""Every schedule's plan is right for every number of steps, and the two simulators agree on it."""

import oracle
import pytest
from hypothesis import given, settings
from strategies import schedules, steps

from metagrad.runtime.schedules import Binomial, LazyKary, Periodic, StoreAll
from metagrad.runtime.schedules.simulator import simulate


def check(plan):
    plan.validate()
    run = oracle.run(plan)
    assert (run.advances, run.updates, run.on_the_spot) == (
        plan.advances,
        plan.updates,
        plan.gradients_on_the_spot,
    )
    peak = simulate(plan)
    assert (run.state_peak, run.gradient_peak) == peak
    assert peak == (plan.state_slots, plan.gradient_slots)  # no slot is asked for in vain


@settings(max_examples=300, deadline=None)
@given(schedules, steps)
def test_with_inner_gradients(schedule, T):
    check(schedule.plan(T, gradients=True))


@settings(max_examples=100, deadline=None)
@given(schedules, steps)
def test_without_inner_gradients(schedule, T):
    check(schedule.plan(T, gradients=False))


@pytest.mark.parametrize(
    "schedule",
    [
        LazyKary(2),
        LazyKary(9),
        LazyKary(10**30),
        Binomial(1),
        Binomial(2),
        Binomial(10**30),
        Periodic(1),
        Periodic(10**30),
        StoreAll(),
    ]
    + [
        LazyKary(2, rebuild=10**30),
        Binomial(1, rebuild=2),
        Binomial(2, rebuild=3),
        Periodic(4, rebuild=3),
        Periodic(3, rebuild=7),
    ],
)
def test_short_runs(schedule):
    for T in range(1, 25):
        check(schedule.plan(T, gradients=True))


def test_leaves_keep_all_their_gradients_but_that_of_a_replay_s_last_step():
    plan = Binomial(3).plan(9, gradients=True)
    assert plan.gradients_on_the_spot < 9
    spared = Binomial(3, keep_gradients=False).plan(9, gradients=True)
    assert spared.advances == plan.advances  # a replay that keeps its gradients runs no step more


def test_rebuilding_holds_fewer_states():
    every_state = Periodic(12).plan(120, gradients=True)
    rebuilt = Periodic(12, rebuild=4).plan(120, gradients=True)
    assert rebuilt.state_slots == every_state.state_slots - 9
    assert rebuilt.gradient_slots == every_state.gradient_slots
    # The states between are rebuilt by 1 + 2 + 3 updates per macro-step; a replay's last step is
    # reached while running through.
    assert rebuilt.updates == 30 * 6 - 9 * 3
