"""Checks of the arguments of schedules, with errors that name the schedule and the argument."""

from __future__ import annotations

import dataclasses
import operator

# Segments are numbered 0 .. T and their bounds are T + 2 entries: all of these are int32.
MOST_STEPS = 2**31 - 3


def check(schedule, **least: int) -> None:
    """Checks the fields of a schedule: those named are ints of at least the value, the rest bools.

    Raises:
      TypeError: a field has the wrong type; bools are not ints here.
      ValueError: a field is too small.
    """
    name = type(schedule).__name__
    for field in dataclasses.fields(schedule):
        value = getattr(schedule, field.name)
        if field.name in least:
            object.__setattr__(
                schedule, field.name, integer(f"{name}({field.name}=...)", value, least[field.name])
            )
        elif not isinstance(value, bool):
            raise TypeError(f"{name}({field.name}=...) must be True or False, got {value!r}")


def integer(what: str, value, least: int) -> int:
    if isinstance(value, bool):
        raise TypeError(f"{what} must be an int, got {value!r}")
    try:
        value = operator.index(value)
    except TypeError:
        raise TypeError(f"{what} must be an int, got {value!r}") from None
    if value < least:
        raise ValueError(f"{what} must be at least {least}, got {value}")
    return value


def check_steps(steps) -> int:
    steps = integer("the number of training steps", steps, 1)
    if steps > MOST_STEPS:
        raise ValueError(
            f"a plan's tables are int32: at most {MOST_STEPS:,} training steps, got {steps:,}"
        )
    return steps


def leaf_options(schedule, *, gradients: bool) -> tuple[bool, int]:
    """Whether leaves keep gradients, and how many steps lie between the states that a leaf holds.

    Raises:
      ValueError: states are to be rebuilt from gradients that are not kept.
    """
    if not gradients:
        # The step has no inner gradient: there is nothing to keep, and nothing to rebuild from.
        return False, 1
    if schedule.rebuild > 1 and not schedule.keep_gradients:
        raise ValueError(
            f"{schedule}: rebuild={schedule.rebuild} rebuilds states from kept gradients, "
            "but keep_gradients is False; set keep_gradients=True, or rebuild=1"
        )
    return schedule.keep_gradients, schedule.rebuild
