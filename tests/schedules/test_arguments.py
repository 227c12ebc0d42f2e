"""Bad arguments get an error that names the schedule and the argument."""

import re

import numpy as np
import pytest

from metagrad.runtime.schedules import Binomial, LazyKary, Periodic, StoreAll, as_schedule


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda: LazyKary(1), ValueError, "LazyKary(k=...) must be at least 2, got 1"),
        (lambda: LazyKary(True), TypeError, "LazyKary(k=...) must be an int, got True"),
        (lambda: LazyKary(2.0), TypeError, "LazyKary(k=...) must be an int, got 2.0"),
        (
            lambda: LazyKary(rebuild=0),
            ValueError,
            "LazyKary(rebuild=...) must be at least 1, got 0",
        ),
        (lambda: Binomial(0), ValueError, "Binomial(slots=...) must be at least 1, got 0"),
        (lambda: Binomial("4"), TypeError, "Binomial(slots=...) must be an int, got '4'"),
        (
            lambda: Binomial(4, keep_gradients=1),
            TypeError,
            "Binomial(keep_gradients=...) must be True or False, got 1",
        ),
        (lambda: Periodic(0), ValueError, "Periodic(every=...) must be at least 1, got 0"),
        (
            lambda: Periodic(4, rebuild=None),
            TypeError,
            "Periodic(rebuild=...) must be an int, got None",
        ),
        (
            lambda: StoreAll(None),
            TypeError,
            "StoreAll(keep_gradients=...) must be True or False, got None",
        ),
    ],
)
def test_fields(make, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        make()


def test_numpy_integers_are_integers():
    assert LazyKary(np.int64(3)) == LazyKary(3)
    assert LazyKary(3).plan(np.int32(10), gradients=True) == LazyKary(3).plan(10, gradients=True)


@pytest.mark.parametrize("schedule", [LazyKary(), Binomial(3), Periodic(3), StoreAll()])
@pytest.mark.parametrize(
    "steps, error, message",
    [
        (0, ValueError, "the number of training steps must be at least 1, got 0"),
        (-3, ValueError, "the number of training steps must be at least 1, got -3"),
        (True, TypeError, "the number of training steps must be an int, got True"),
        (2.5, TypeError, "the number of training steps must be an int, got 2.5"),
        (
            2**31,
            ValueError,
            "a plan's tables are int32: at most 2,147,483,645 training steps, got 2,147,483,648",
        ),
        (10**40, ValueError, "a plan's tables are int32"),
    ],
)
def test_steps(schedule, steps, error, message):
    with pytest.raises(error, match=message):
        schedule.plan(steps, gradients=True)


@pytest.mark.parametrize(
    "schedule",
    [LazyKary(3, keep_gradients=False, rebuild=2), Binomial(3, False, 2), Periodic(3, False, 2)],
)
def test_rebuilding_needs_kept_gradients(schedule):
    with pytest.raises(
        ValueError,
        match="rebuild=2 rebuilds states from kept gradients, but keep_gradients is False; "
        "set keep_gradients=True, or rebuild=1",
    ):
        schedule.plan(10, gradients=True)
    assert schedule.plan(10, gradients=False).gradient_slots == 0


def test_as_schedule_takes_our_schedules_as_they_are():
    for schedule in (LazyKary(), Binomial(3), Periodic(3), StoreAll()):
        assert as_schedule(schedule) is schedule


@pytest.mark.parametrize("argument", [None, 4, "LazyKary", [1, 2]])
def test_as_schedule_says_what_it_takes(argument):
    with pytest.raises(
        TypeError,
        match=r"schedule must be Auto\(memory=\.\.\.\), LazyKary\(k\), Binomial\(slots\), "
        ".*checkpoint_schedules package; got",
    ):
        as_schedule(argument)


def test_as_schedule_asks_for_an_instance():
    with pytest.raises(
        TypeError,
        match=r"schedule is the class LazyKary; pass an instance, as in schedule=LazyKary\(...\)",
    ):
        as_schedule(LazyKary)


def test_schedules_print_as_the_calls_that_make_them():
    assert str(LazyKary()) == "LazyKary(k=4)"
    assert str(LazyKary(2, rebuild=3)) == "LazyKary(k=2, rebuild=3)"
    assert str(Binomial(24, keep_gradients=False)) == "Binomial(slots=24, keep_gradients=False)"
    assert str(Periodic(7)) == "Periodic(every=7)"
    assert (str(StoreAll()), str(StoreAll(False))) == (
        "StoreAll()",
        "StoreAll(keep_gradients=False)",
    )
