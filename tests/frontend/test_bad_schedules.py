"""Schedules that are none, and arguments that a schedule does not take, are refused."""

import pytest
from bad_input import refused

import metagrad


@pytest.mark.parametrize(
    "schedule",
    [3, "lazy", object(), lambda steps: None],
    ids=["a number", "text", "an object", "a function"],
)
def test_what_is_no_schedule(schedule):
    refused(
        TypeError,
        "schedule must be Auto(memory=...), LazyKary(k), Binomial(slots), Periodic(every), "
        "StoreAll(), or a schedule object of the checkpoint_schedules package",
        f"got {schedule!r}",
        schedule=schedule,
    )


def test_class_of_a_schedule():
    refused(
        TypeError,
        "schedule is the class LazyKary; pass an instance, as in schedule=LazyKary(...)",
        schedule=metagrad.LazyKary,
    )


@pytest.mark.parametrize(
    "make, error, says",
    [
        (lambda: metagrad.LazyKary(1), ValueError, r"LazyKary\(k=...\) must be at least 2, got 1"),
        (
            lambda: metagrad.Binomial(0),
            ValueError,
            r"Binomial\(slots=...\) must be at least 1, got 0",
        ),
        (
            lambda: metagrad.Periodic(2.5),
            TypeError,
            r"Periodic\(every=...\) must be an int, got 2.5",
        ),
        (
            lambda: metagrad.StoreAll(1),
            TypeError,
            r"StoreAll\(keep_gradients=...\) must be True or False, got 1",
        ),
    ],
)
def test_bad_arguments_of_schedules(make, error, says):
    with pytest.raises(error, match=says):
        make()


def test_rebuilding_from_gradients_that_are_not_kept():
    refused(
        ValueError,
        "rebuild=2",
        "keep_gradients is False",
        "set keep_gradients=True",
        schedule=metagrad.LazyKary(2, False, 2),
    )


@pytest.mark.filterwarnings("ignore:Numba not available")
def test_schedule_made_for_another_number_of_steps():
    cs = pytest.importorskip("checkpoint_schedules")
    refused(
        ValueError,
        "Revolve was made for max_n=7 steps, but the training run has 3",
        schedule=cs.Revolve(7, 2),
    )
