"""The table of `metagrad plan`: one line for each schedule."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from metagrad.runtime.schedules.comparison import Row
    from metagrad.runtime.schedules.plan import Plan
    from metagrad.runtime.schedules.two_level import TwoLevelPlan


@dataclasses.dataclass(frozen=True)
class Line:
    """What the table says of a schedule.

    Attributes:
      name: of the schedule, with its arguments.
      bytes: on the device.
      states, gradients: slots, as text.
      advances: steps run with a gradient computed for them.
      seconds: predicted.
      fits: whether it is within the budget.
    """

    name: str
    bytes: int
    states: str
    gradients: str
    advances: int
    seconds: float
    fits: bool = True


def seconds(plan: Plan | TwoLevelPlan) -> float:
    """The predicted time of a plan that has one."""
    assert plan.predicted_seconds is not None, "the costs are known"
    return plan.predicted_seconds


def of_auto(name: str, plan: Plan | TwoLevelPlan) -> Line:
    """The line of a plan of `Auto`, which fits."""
    from metagrad.runtime.schedules.plan import Plan

    assert plan.bytes is not None, "the sizes are known"
    if isinstance(plan, Plan):
        states, gradients = f"{plan.state_slots:,}", f"{plan.gradient_slots:,}"
    else:
        states = f"{plan.outer.state_slots:,} + {plan.inner.state_slots:,}"
        gradients = f"{plan.inner.gradient_slots:,}"
    return Line(name, plan.bytes, states, gradients, plan.advances, seconds(plan))


def of_kind(row: Row) -> Line:
    """The line of another schedule."""
    plan = row.plan
    slots = f"{plan.state_slots:,}", f"{plan.gradient_slots:,}"
    return Line(row.schedule, row.bytes, *slots, plan.advances, row.seconds, row.fits)


_TITLES = ("schedule", "on the device", "state slots", "gradient slots", "steps run", "time", "")


def table(lines: Sequence[Line], training: float, *, in_seconds: bool) -> str:
    """The lines below their titles.

    Args:
      lines: in this order.
      training: s; the time of plain training.
      in_seconds: whether times are in seconds; else in plain trainings.
    """
    cells = [_TITLES, *(_cells(line, training, in_seconds) for line in lines)]
    widths = [max(map(len, column)) for column in zip(*cells)]
    first, *others = widths
    rows = [
        "  ".join([row[0].ljust(first), *(cell.rjust(w) for cell, w in zip(row[1:], others))])
        for row in cells
    ]
    return "\n".join(row.rstrip() for row in rows)


def _cells(line: Line, training: float, in_seconds: bool) -> tuple[str, ...]:
    from metagrad.runtime.byte_sizes import format_bytes
    from metagrad.runtime.schedules.estimate import format_seconds

    time = format_seconds(line.seconds) if in_seconds else f"{line.seconds / training:.2f}"
    return (
        line.name,
        format_bytes(line.bytes),
        line.states,
        line.gradients,
        f"{line.advances:,}",
        time,
        "" if line.fits else "does not fit",
    )
