"""What is accepted as a schedule: our own, and those of the `checkpoint_schedules` package."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from metagrad.runtime.schedules.actions import from_checkpoint_schedules, is_checkpoint_schedule
from metagrad.runtime.schedules.plan import Plan


@runtime_checkable
class Schedule(Protocol):
    """Makes a plan for a training run."""

    def plan(self, steps: int, *, gradients: bool) -> Plan:
        """The plan for `steps` training steps.

        Args:
          steps: the number of training steps.
          gradients: whether the step has inner gradients that can be kept.
        """
        ...


def as_schedule(schedule) -> Schedule:
    """`schedule` itself, or what `from_checkpoint_schedules` makes of an object of that package.

    Raises:
      TypeError: it is neither.
    """
    if is_checkpoint_schedule(schedule):
        return from_checkpoint_schedules(schedule)
    if isinstance(schedule, type):
        raise TypeError(
            f"schedule is the class {schedule.__name__}; "
            f"pass an instance, as in schedule={schedule.__name__}(...)"
        )
    if isinstance(schedule, Schedule):
        return schedule
    raise TypeError(
        "schedule must be Auto(memory=...), LazyKary(k), Binomial(slots), Periodic(every), "
        "StoreAll(), or a schedule object of the checkpoint_schedules package; "
        f"got {schedule!r}"
    )
