"""The fastest plan of each kind of schedule that fits a budget."""

import pytest

from metagrad.runtime.schedules.auto import Auto
from metagrad.runtime.schedules.comparison import compare
from metagrad.runtime.schedules.costs import Costs, Sizes, memory, predict

KINDS = ["StoreAll", "Binomial", "Periodic", "LazyKary"]


def costs_of(gradient):
    return Costs(Sizes(3000, gradient, workspace=5000, step=7), inner=0.9, update=0.1, vjp=2.4)


@pytest.mark.parametrize("gradient", [0, 1000])
@pytest.mark.parametrize("steps", [1, 2, 7, 100, 1000])
@pytest.mark.parametrize("slots", [1, 3, 24, 4000])
def test_rows_are_what_their_plans_are(steps, slots, gradient):
    costs = costs_of(gradient)
    budget = 60_000 + 10 * steps + 3000 * slots
    rows = compare(steps, costs, budget)
    assert [row.schedule.partition("(")[0] for row in rows] == KINDS
    for row in rows:
        row.plan.validate()
        assert row.plan.steps == steps
        assert row.seconds == predict(row.plan, costs)
        assert row.bytes == memory(row.plan, costs.sizes)
        assert row.fits == (row.bytes <= budget)
    best = Auto(budget).plan(
        steps, gradients=gradient > 0, sizes=costs.sizes, measure=lambda: costs
    )
    fitting = [row.seconds for row in rows if row.fits]
    assert best.predicted_seconds <= 1.01 * min(fitting, default=float("inf"))


def test_more_memory_is_never_slower():
    costs = costs_of(1000)
    before = {}
    for budget in (60_000, 120_000, 400_000, 3_000_000):
        for row in compare(500, costs, budget):
            kind = row.schedule.partition("(")[0]
            if kind in before:
                assert row.seconds <= before[kind]
            if row.fits:
                before[kind] = row.seconds
    assert {*before} == {*KINDS}, "with the last budget everything fits"
