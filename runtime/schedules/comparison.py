"""The schedules beside one another: of each kind, the fastest plan that fits a budget."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator

from metagrad.runtime.schedules.accept import Schedule
from metagrad.runtime.schedules.binomial import Binomial
from metagrad.runtime.schedules.costs import Costs, memory, predict
from metagrad.runtime.schedules.lazy_kary import LazyKary
from metagrad.runtime.schedules.periodic import Periodic
from metagrad.runtime.schedules.plan import Plan
from metagrad.runtime.schedules.store_all import StoreAll

_REBUILDS = (1, 2, 4)
_MOST_PARTS = 512


@dataclasses.dataclass(frozen=True)
class Row:
    """One kind of schedule.

    Attributes:
      schedule: with its arguments, as text.
      plan: the fastest that fits; where none does, the smallest.
      seconds: s; its predicted time.
      bytes: its memory on the device.
      fits: whether that is within the budget.
    """

    schedule: str
    plan: Plan
    seconds: float
    bytes: int
    fits: bool


def compare(steps: int, costs: Costs, budget: int) -> list[Row]:
    """The fastest plan of each kind for a fused program.

    Args:
      steps: T.
      costs: seconds and sizes. With `costs.sizes.gradient` of 0 there are no gradients to keep.
      budget: bytes on the device.

    Returns:
      A row each for `StoreAll`, `Binomial`, `Periodic` and `LazyKary`.

    Raises:
      TypeError, ValueError: `steps` is not an int, or out of range.
    """
    bound = _Budget(steps, costs, budget)
    kinds = (bound.store_all(), bound.binomial(), bound.periodic(), bound.lazy_kary())
    return [bound.best(schedules) for schedules in kinds]


@dataclasses.dataclass(frozen=True)
class _Budget:
    steps: int
    costs: Costs
    bytes: int

    @property
    def gradients(self) -> bool:
        return self.costs.sizes.gradient > 0

    def best(self, schedules: Iterable[Schedule]) -> Row:
        """The fastest row that fits; the smallest where none does."""
        rows = [self.row(s.plan(self.steps, gradients=self.gradients)) for s in schedules]
        fitting = [row for row in rows if row.fits]
        if fitting:
            return min(fitting, key=lambda row: (row.seconds, row.bytes))
        return min(rows, key=lambda row: row.bytes)

    def row(self, plan: Plan) -> Row:
        size = memory(plan, self.costs.sizes)
        return Row(plan.schedule, plan, predict(plan, self.costs), size, size <= self.bytes)

    # Candidates. Those that certainly do not fit are left out before they are planned, unless none
    # is left: of a long run each plan takes a while.

    def store_all(self) -> Iterator[Schedule]:
        yield StoreAll(keep_gradients=False)
        if self.gradients:
            yield StoreAll()

    def binomial(self) -> Iterator[Schedule]:
        sizes = self.costs.sizes
        left = self.bytes - sizes.fixed(self.steps) - 48 * self.steps  # the tables
        yield Binomial(self._slots(left, sizes.state), keep_gradients=False)
        if not self.gradients:
            return
        for rebuild in _REBUILDS:
            # With rebuild=m: a state slot more, less than (slots + 1) m gradient slots.
            extra = 0 if rebuild == 1 else sizes.state + rebuild * sizes.gradient
            slots = self._slots(left - extra, sizes.state + rebuild * sizes.gradient)
            yield Binomial(slots, rebuild=rebuild)

    def _slots(self, left: int, of_slot: int) -> int:
        return max(1, min(self.steps, left // max(1, of_slot)))

    def periodic(self) -> Iterator[Schedule]:
        root = max(1, math.isqrt(self.steps))
        lengths = sorted({*_geometric(1, self.steps), root})
        fitting = [n for n in lengths if self.may_fit(math.ceil(self.steps / n) + n - 1)]
        for every in fitting or [root]:
            yield Periodic(every, keep_gradients=False)
            if self.gradients:
                yield Periodic(every)

    def lazy_kary(self) -> Iterator[Schedule]:
        for parts in _geometric(2, max(2, min(self.steps, _MOST_PARTS))):
            yield LazyKary(parts, keep_gradients=False)
            if self.gradients:
                yield LazyKary(parts)

    def may_fit(self, state_slots: int) -> bool:
        return state_slots * self.costs.sizes.state <= self.bytes


def _geometric(first: int, last: int) -> list[int]:
    """Numbers from `first` to `last`, each about a quarter above the one before."""
    numbers = [first]
    while numbers[-1] < last:
        numbers.append(min(last, max(numbers[-1] + 1, round(numbers[-1] * 1.25))))
    return numbers
