"""`Auto`: the fastest plan within a budget, what it says of it, and what it refuses."""

import itertools
import json
import math
import time

import pytest

from metagrad.runtime.schedules import Auto, Binomial, LazyKary, Periodic, StoreAll
from metagrad.runtime.schedules.costs import Costs, Sizes, memory, predict
from metagrad.runtime.schedules.estimate import estimated, format_seconds
from metagrad.runtime.schedules.simulator import simulate

SIZES = Sizes(state=3_000_000, gradient=1_000_000, workspace=5_000_000, step=1_000, batch=1_000)
COSTS = Costs(
    SIZES,
    inner=10e-3,
    update=1.3e-3,
    vjp=26.7e-3,
    step=1e-6,
    run=1e-6,
    segment=2e-6,
    slot_write=5e9,
    slot_read=8e9,
    measured=True,
)


def families(steps):
    """Plans of all other schedules, with and without kept gradients and rebuilt states."""
    options = [(False, 1), *((True, rebuild) for rebuild in (1, 2, 3, 5, 8))]
    for keep in (True, False):
        yield StoreAll(keep)
    for keep, rebuild in options:
        for number in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48):
            yield Binomial(number, keep, rebuild)
            yield Periodic(number, keep, rebuild)
            if number > 1:
                yield LazyKary(number, keep, rebuild)


@pytest.mark.parametrize("gradient", [1_000_000, 3_000_000])
@pytest.mark.parametrize("steps", [3, 50, 100])
def test_no_other_schedule_is_faster_in_the_same_memory(steps, gradient):
    sizes = Sizes(3_000_000, gradient, 5_000_000, 1_000)
    costs = Costs(**{**_fields(COSTS), "sizes": sizes})
    for schedule in families(steps):
        other = schedule.plan(steps, gradients=True)
        # The tables of a plan are small, and are not what this is about.
        budget = memory(other, sizes) + 40 * steps
        plan = Auto(budget).plan(steps, gradients=True, sizes=sizes, measure=lambda: costs)
        assert plan.bytes <= budget
        assert predict(plan, costs) <= 1.012 * predict(other, costs), (schedule, plan)


def _fields(costs):
    return {name: getattr(costs, name) for name in costs.__dataclass_fields__}


@pytest.mark.parametrize("budget", ["14MB", "20MB", "60MB", "120MB", "250MB", None])
@pytest.mark.parametrize("gradients", [True, False])
def test_a_plan_fits_and_is_right(budget, gradients):
    auto = Auto(budget)
    sizes = SIZES if gradients else Sizes(3_000_000, 0, 5_000_000, 1_000)
    costs = Costs(**{**_fields(COSTS), "sizes": sizes})
    plan = auto.plan(64, gradients=gradients, sizes=sizes, measure=lambda: costs)
    plan.validate()
    assert plan.schedule == str(auto)
    assert simulate(plan) == (plan.state_slots, plan.gradient_slots)
    assert plan.bytes == memory(plan, sizes)
    assert plan.predicted_seconds == predict(plan, costs)
    assert budget is None or plan.bytes <= auto.budget("memory")


def test_more_memory_is_never_slower():
    times = [
        Auto(budget * 1_000_000).plan(100, gradients=True, sizes=SIZES, measure=lambda: COSTS)
        for budget in (9, 12, 20, 30, 50, 80, 120, 200, 400)
    ]
    for less, more in itertools.pairwise(times):
        assert more.predicted_seconds <= 1.012 * less.predicted_seconds


def test_the_smallest_of_those_as_fast_is_taken():
    plan = Auto().plan(64, gradients=True, sizes=SIZES, measure=lambda: COSTS)
    everything = estimated(StoreAll().plan(64, gradients=True), SIZES, COSTS)
    assert plan.advances == 64
    assert plan.predicted_seconds <= 1.012 * everything.predicted_seconds
    assert plan.bytes < 0.75 * everything.bytes


def test_nothing_is_measured_for_a_run_that_fits():
    plan = Auto("1GB").plan(64, gradients=True, sizes=SIZES)
    assert (plan.state_slots, plan.gradient_slots, plan.advances) == (64, 64, 64)
    assert plan.predicted_seconds is None
    assert "nothing has been measured" in str(plan)
    with pytest.raises(TypeError, match=r"needs measure=\.\.\.: not everything fits"):
        Auto("100MB").plan(64, gradients=True, sizes=SIZES)


@pytest.mark.parametrize("memory_, free", [("8MB", None), (None, 8_000_000)])
def test_a_budget_that_is_too_small(memory_, free):
    with pytest.raises(ValueError, match=r"no plan for 64 steps fits 7\.63 MiB") as error:
        Auto(memory_).plan(64, gradients=True, sizes=SIZES, measure=lambda: COSTS, free=free)
    assert ("what the device has free" in str(error.value)) == (free is not None)
    suggested = str(error.value).rpartition('memory="')[2].partition('"')[0]
    plan = Auto(suggested).plan(64, gradients=True, sizes=SIZES, measure=lambda: COSTS)
    assert plan.state_slots == 1 and plan.bytes <= Auto(suggested).budget("memory")


def test_a_run_of_one_step():
    for budget in ("9MB", "8.1MB"):
        plan = Auto(budget).plan(1, gradients=True, sizes=SIZES, measure=lambda: COSTS)
        plan.validate()
    assert plan.gradients_on_the_spot == 1


def test_what_takes_no_bytes_is_held():
    for sizes in (Sizes(0, 1_000), Sizes(1_000, 0), Sizes(0, 0)):
        costs = Costs(sizes, inner=1.0, update=0.1, vjp=2.0)
        plan = Auto(2_000_000).plan(50, gradients=True, sizes=sizes, measure=lambda c=costs: c)
        plan.validate()
        assert plan.advances == 50


def test_bad_budgets_are_refused():
    with pytest.raises(ValueError, match=r"Auto\(memory=\.\.\.\) has the unit 'GiX'"):
        Auto("4GiX")
    with pytest.raises(ValueError, match=r"Auto\(disk=\.\.\.\) must not be negative"):
        Auto(disk=-1)
    with pytest.raises(TypeError, match=r"Auto\(host=\.\.\.\) must be a number of bytes"):
        Auto(host=True)
    with pytest.raises(TypeError, match=r"Auto\.plan needs sizes"):
        Auto().plan(4, gradients=True)


def test_the_text_says_what_it_rests_on():
    text = str(Auto("60MB").plan(64, gradients=True, sizes=SIZES, measure=lambda: COSTS))
    assert "of slots, 4.77 MiB of workspace" in text
    assert "predicted\n" in text and "measured on this machine" in text
    assert "gradient 10 ms" in text
    guess = Costs(**{**_fields(COSTS), "measured": False})
    text = str(Auto("60MB").plan(64, gradients=True, sizes=SIZES, measure=lambda: guess))
    assert "estimated, not measured" in text


def test_costs_are_stored_and_read_again():
    assert Costs.from_jsonable(json.loads(json.dumps(COSTS.jsonable()))) == COSTS
    assert COSTS.host_read == math.inf
    stored = COSTS.jsonable()
    for damage in ({"inner": -1.0}, {"inner": "1"}, {"sizes": {}}, {"sizes": None}, {"call": None}):
        with pytest.raises(ValueError, match="the stored costs are damaged"):
            Costs.from_jsonable(stored | damage)
    with pytest.raises(ValueError, match="not stored costs of format 1: found None"):
        Costs.from_jsonable({})


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"inner": -1.0}, ValueError, "Costs.inner must be finite and not negative"),
        ({"vjp": math.nan}, ValueError, "Costs.vjp must be finite and not negative"),
        ({"slot_read": 0}, ValueError, "Costs.slot_read must be positive"),
        ({"update": "1"}, TypeError, "Costs.update must be a number"),
    ],
)
def test_costs_out_of_range(change, error, message):
    with pytest.raises(error, match=message):
        Costs(**{**_fields(COSTS), **change})


@pytest.mark.parametrize("slots", [2, 30, 3_000, 300_000, 4_000_000])
def test_a_million_steps_in_under_a_second(slots):
    """CPU time: the machine may be busy."""
    budget = 5_000_000 + slots * 3_000_000 + 1_000_000 * 1_100
    times = []
    for _ in range(2):
        start = time.process_time()
        Auto(budget).plan(1_000_000, gradients=True, sizes=SIZES, measure=lambda: COSTS)
        times.append(time.process_time() - start)
    assert min(times) < 1.0


@pytest.mark.parametrize(
    "seconds, text",
    [(0, "0 ns"), (2.5e-8, "25 ns"), (3.2e-5, "32 us"), (0.0123, "12.3 ms"), (1.5, "1.5 s"),
     (125, "2 min 05 s"), (7500, "2 h 05 min")],
)  # fmt: skip
def test_times_as_text(seconds, text):
    assert format_seconds(seconds) == text
