"""`Auto` for the streamed executor: the length of a segment, an outer and an inner plan.

For each length of a segment that fits the device, the inner plan is the fastest tree in the memory
that is left. The outer plan is the fastest of a class: the training run leaves a chain of states in
slots of the host and the disk, and between two of these slots on the device alone are used
(native/two_level.h: Disk-Revolve with writes and reads that overlap the compute). Beside it, and
alone where the recursion would take long, Revolve with all slots is tried. The time of each
candidate is that of its `timeline`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

from metagrad import _native
from metagrad.runtime.byte_sizes import format_bytes
from metagrad.runtime.schedules.accept import Schedule
from metagrad.runtime.schedules.arguments import check_steps
from metagrad.runtime.schedules.auto import (
    SLACK,
    Auto,
    DoesNotFit,
    fastest_tree,
    rounded_up,
    smallest_bytes,
)
from metagrad.runtime.schedules.costs import Costs, Sizes, predict
from metagrad.runtime.schedules.moves import TIERS
from metagrad.runtime.schedules.plan import Plan
from metagrad.runtime.schedules.store_all import StoreAll
from metagrad.runtime.schedules.timeline import ACTIONS_AHEAD, MoveSeconds, timeline
from metagrad.runtime.schedules.two_level import (
    MOST_SLOTS,
    SegmentSlots,
    TwoLevelEstimate,
    TwoLevelPlan,
    segment_bytes,
)

MOST_FOR_RECURSION = 512
_MOST_WORK = 10_000_000  # of the recursion: segments^2 * slots
_MOST_SEGMENTS = 16_384
_MOST_LENGTH = 4096
_DEVICE_SLOTS = (0, 1, 4, 16)


@dataclasses.dataclass(frozen=True)
class Budgets:
    """Bytes on the device, in the host's memory, and on disk."""

    device: int
    host: int
    disk: int


def streamed_plan(
    auto: Auto,
    steps: int,
    *,
    gradients: bool,
    costs: Costs,
    device_free: int,
    host_free: int,
    longest: int | None = None,
) -> TwoLevelPlan:
    """The plan of a streamed run.

    Args:
      auto: the budgets. `memory` left open is `device_free`, `host` is `host_free`, `disk` is
        nothing.
      steps: T.
      gradients: whether the step has inner gradients that can be kept.
      costs: seconds and sizes. `costs.sizes.step` is what a segment holds for each step beside its
        batch.
      device_free, host_free: bytes that are free.
      longest: the most steps of a segment; None: no limit but the memory's.

    Raises:
      DoesNotFit: no plan fits. The message says what the smallest needs.
    """
    steps = check_steps(steps)
    named = [auto.budget(name) for name in ("memory", "host", "disk")]
    budgets = Budgets(
        *(
            otherwise if budget is None else budget
            for budget, otherwise in zip(named, (device_free, host_free, 0))
        )
    )
    search = _Search(str(auto), steps, gradients, costs, budgets)
    plans: list[TwoLevelPlan] = []
    for length in search.lengths(longest):
        for plan in search.plans(length, least := _least_seconds(plans)):
            if _estimate(plan).seconds <= (1 + SLACK) * least:
                plans.append(plan)
    if not plans:
        raise DoesNotFit(search.nothing_fits(auto))
    seconds = {id(plan): _estimate(plan).seconds for plan in plans}
    limit = (1 + SLACK) * min(seconds.values())
    return min((p for p in plans if seconds[id(p)] <= limit), key=lambda p: p.bytes)


def _least_seconds(plans: list[TwoLevelPlan]) -> float:
    return min((_estimate(plan).seconds for plan in plans), default=math.inf)


def _estimate(plan: TwoLevelPlan) -> TwoLevelEstimate:
    assert plan.estimate is not None
    return plan.estimate


@dataclasses.dataclass(frozen=True)
class _Search:
    name: str
    steps: int
    gradients: bool
    costs: Costs
    budgets: Budgets

    @property
    def state(self) -> int:
        return self.costs.sizes.state

    def lengths(self, longest: int | None) -> Iterator[int]:
        """The lengths of segments that are tried: each about 1.5 times the one before."""
        most = min(self.steps, longest or self.steps)
        while most > 1 and smallest_bytes(most, self.segment_sizes(most)) > self.budgets.device:
            most //= 2
        least = min(most, -(-self.steps // _MOST_SEGMENTS))
        most = min(most, max(_MOST_LENGTH, least))
        length = float(least)
        while length < most:
            yield math.ceil(length)
            length = max(length + 1, length * 1.5)
        yield most

    def plans(self, length: int, seconds: float) -> Iterator[TwoLevelPlan]:
        """Plans with segments of a length, but those whose compute alone takes longer."""
        limit = (1 + SLACK) * seconds
        segments = -(-self.steps // length)
        host, disk = self.slow_slots(segments)
        for device in _DEVICE_SLOTS:
            if device + host + disk == 0 or device > segments:
                continue
            if device > 0 and host + disk >= segments and self.is_hidden(length):
                return
            left = self.budgets.device - device * self.state
            sizes = self.segment_sizes(length)
            if smallest_bytes(length, sizes) > left:
                return
            slots = self.slots(length, left)
            # Where a step is too small to be measured it still takes some time.
            advance = max(length * self.costs.advance + self.costs.call, 1e-9)
            reverse = predict(slots.plan(length), self.costs)
            if segments * (advance + reverse) > limit:
                return
            for outer, tiers in self.outers(segments, device, host, disk, advance, reverse):
                if outer.advances * advance + segments * reverse > limit:
                    continue
                places = tuple(map(TIERS.index, tiers))
                plan = TwoLevelPlan(self.steps, outer, places, slots, self.costs.sizes)
                estimate = self.estimate(outer, tiers, advance, reverse)
                room = (device, *self.slow_slots(MOST_SLOTS))
                yield dataclasses.replace(plan, estimate=estimate, room=room)

    def is_hidden(self, length: int) -> bool:
        """Whether moves take less than a segment's steps: then slots on the device gain nothing."""
        slowest = "disk" if self.budgets.disk else "host"
        moves = (self.costs.write_seconds(slowest), self.costs.read_seconds(slowest))
        return max(moves) <= length * self.costs.advance

    def slow_slots(self, segments: int) -> tuple[int, int]:
        """Slots in the host's memory and on disk: no more than there are segments."""
        if self.state == 0:
            return segments, 0
        host = min(segments, self.budgets.host // self.state)
        return host, min(segments - host, self.budgets.disk // self.state)

    def segment_sizes(self, length: int) -> Sizes:
        """What a segment's kernel needs, with the batches that wait."""
        workspace = segment_bytes(length, self.costs.sizes)
        return dataclasses.replace(self.costs.sizes, workspace=workspace, step=0)

    def slots(self, length: int, left: int) -> SegmentSlots:
        """The slots of the fastest plan of a segment in `left` bytes."""
        tree = fastest_tree(length, self.gradients, self.segment_sizes(length), self.costs, left)
        plan = tree.plan(length, gradients=self.gradients)
        kept = plan.gradient_slots == length or not self.gradients
        schedule: Schedule = StoreAll() if plan.state_slots == length and kept else tree
        return SegmentSlots(length, schedule, plan.state_slots, plan.gradient_slots, self.gradients)

    def outers(
        self, segments: int, device: int, host: int, disk: int, advance: float, reverse: float
    ) -> Iterator[tuple[Plan, tuple[str, ...]]]:
        slow = host + disk
        in_reach = slow > 0 and segments <= MOST_FOR_RECURSION
        tables = 1 if slow >= segments else slow
        in_reach = in_reach and segments**2 * tables <= _MOST_WORK
        if not in_reach or device + slow >= segments:
            fields = _native.plan_binomial(segments, min(segments, device + host + disk), 1, False)
            plan = Plan(**fields, schedule=self.name)
            yield plan, _tiers(plan.state_slots, host, disk)
        if in_reach:
            tier = "disk" if disk else "host"
            fields, count = _native.plan_two_levels(
                segments,
                device,
                slow - 1,
                self.costs.write_seconds(tier) / advance,
                self.costs.read_seconds(tier) / advance,
                ACTIONS_AHEAD * reverse / advance,
                True,
            )
            plan = Plan(**fields, schedule=self.name)
            fast: tuple[str, ...] = ("device",) * (plan.state_slots - count)
            yield plan, _tiers(count, host, disk) + fast

    def estimate(
        self, outer: Plan, tiers: tuple[str, ...], advance: float, reverse: float
    ) -> TwoLevelEstimate:
        moves = {
            tier: MoveSeconds(self.costs.write_seconds(tier), self.costs.read_seconds(tier))
            for tier in set(tiers)
        }
        time = timeline(outer, tiers, moves, advance, reverse)
        return TwoLevelEstimate(time.seconds, time.waiting, self.costs)

    def nothing_fits(self, auto: Auto) -> str:
        least = smallest_bytes(1, self.segment_sizes(1))
        if least > self.budgets.device:
            return (
                f"{auto}: no streamed plan fits {format_bytes(self.budgets.device)} on the device; "
                f"the smallest, with segments of one step, needs {format_bytes(least)} "
                f'({least:,} bytes). Set memory="{rounded_up(least)}" or more'
            )
        return (
            f"{auto}: no slot for a state of {format_bytes(self.state)} fits "
            f"{format_bytes(self.budgets.host)} of the host's memory or "
            f"{format_bytes(self.budgets.disk)} on disk, and on the device there is no room beside "
            f"a segment. Give more in memory=, host= or disk="
        )


def _tiers(slots: int, host: int, disk: int) -> tuple[str, ...]:
    """Slots that are used the longest come first: they go to disk, the next to the host."""
    on_disk = min(disk, max(0, slots - host))
    in_host = min(host, slots - on_disk)
    on_device = slots - on_disk - in_host
    return ("disk",) * on_disk + ("host",) * in_host + ("device",) * on_device
