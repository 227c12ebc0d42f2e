"""The schedule of a segment in the manifest of an exported run: its class and its arguments.

A streamed run of another number of steps has a last segment of another length. So the file has what
makes a plan, beside the plans of the run that it was written for.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from metagrad.runtime.exported.fields import Fields
from metagrad.runtime.schedules.accept import Schedule
from metagrad.runtime.schedules.auto import Tree
from metagrad.runtime.schedules.binomial import Binomial
from metagrad.runtime.schedules.lazy_kary import LazyKary
from metagrad.runtime.schedules.periodic import Periodic
from metagrad.runtime.schedules.plan import Plan
from metagrad.runtime.schedules.store_all import StoreAll

_STORED: dict[str, type] = {
    kind.__name__: kind for kind in (StoreAll, Tree, Binomial, LazyKary, Periodic)
}
_MOST_SECONDS = 1e9
"""Of a weight of a tree. Sums of weights then stay far from infinity, over any number of steps."""


def to_json(schedule: Schedule) -> dict[str, Any]:
    """The manifest's entry.

    Raises:
      ValueError: a file does not hold a schedule of this class.
    """
    kind = type(schedule)
    if _STORED.get(kind.__name__) is not kind:
        raise ValueError(
            f"its segments follow {schedule!r}, of the class {kind.__qualname__}, and a file holds "
            f"{', '.join(_STORED)}"
        )
    return {"class": kind.__name__} | dataclasses.asdict(schedule)  # type: ignore[call-overload]


def from_json(fields: Fields) -> Schedule:
    """What `to_json` made.

    Raises:
      ValueError, TypeError: there is no such class, or it has other arguments.
    """
    name = fields.text("class")
    kind = _STORED.get(name)
    if kind is None:
        raise ValueError(f"{fields.place}.class is {name!r}, which is not one of {list(_STORED)}")
    names = [field.name for field in dataclasses.fields(kind)]
    if {*fields} != {"class", *names}:
        raise ValueError(f"{fields.place} has not the arguments of {name}: {names}")
    if kind is Tree:
        return _tree(fields)
    return kind(**{each: fields.any(each) for each in names})


@dataclasses.dataclass(frozen=True)
class WithPlans:
    """A schedule some of whose plans are known.

    What makes plans may take long, or all memory, with arguments that were chosen for that. So
    nothing is planned before a run asks for a plan that is not known.

    Attributes:
      schedule: makes the others.
      plans: those that are known, by their number of steps.
    """

    schedule: Schedule
    plans: Mapping[int, Plan]

    def plan(self, steps: int, *, gradients: bool) -> Plan:
        """The plan for `steps` steps. A known one has gradients kept as it says."""
        if steps in self.plans:
            return self.plans[steps]
        return self.schedule.plan(steps, gradients=gradients)


def _tree(fields: Fields) -> Tree:
    weights = fields.sequence("weights")
    if len(weights) != 4 or not all(map(_is_weight, weights)):
        raise ValueError(f"{fields.place}.weights are not four numbers of seconds: {weights}")
    advance, kept, rebuild, save = map(float, weights)
    slots = fields.integer("state_slots", 1), fields.integer("gradient_slots")
    return Tree(*slots, (advance, kept, rebuild, save))


def _is_weight(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and 0 <= value <= _MOST_SECONDS
