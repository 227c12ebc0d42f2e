"""Plans in two levels, for runs that are streamed.

A run of T steps is gone through in segments of L steps. The outer plan is an ordinary plan whose
steps are segments: it says which states between segments are held, each in a tier, and which
segments are run again. The inner plan is that of the device within a segment, for the reversal.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence

from metagrad.runtime.byte_sizes import format_bytes
from metagrad.runtime.displayed import preformatted
from metagrad.runtime.schedules.accept import Schedule
from metagrad.runtime.schedules.binomial import Binomial
from metagrad.runtime.schedules.costs import Costs, Sizes
from metagrad.runtime.schedules.estimate import costs_line, format_seconds
from metagrad.runtime.schedules.moves import TIERS, Move, moves
from metagrad.runtime.schedules.plan import Plan
from metagrad.runtime.schedules.store_all import StoreAll


@dataclasses.dataclass(frozen=True)
class TwoLevelEstimate:
    """What a streamed run is expected to take.

    Attributes:
      seconds: the predicted time.
      waiting: s; the part of it in which the device waits for moves.
      costs: what `seconds` rests on.
    """

    seconds: float
    waiting: float
    costs: Costs


@dataclasses.dataclass(frozen=True)
class SegmentSlots:
    """The part of a plan on which the compiled programs depend.

    Attributes:
      steps: L.
      schedule: makes the plan of a segment.
      state_slots, gradient_slots: what the plan of L steps has.
      has_gradients: whether the step has inner gradients.
    """

    steps: int
    schedule: Schedule
    state_slots: int
    gradient_slots: int
    has_gradients: bool

    @classmethod
    def of(cls, steps: int, schedule: Schedule, has_gradients: bool) -> SegmentSlots:
        plan = schedule.plan(steps, gradients=has_gradients)
        return cls(steps, schedule, plan.state_slots, plan.gradient_slots, has_gradients)

    def plan(self, count: int) -> Plan:
        """The plan of a segment of `count` steps, at most L, in the slots of one of L steps.

        A shorter plan may keep more gradients, since it needs fewer slots for states. It is then
        made without any: their steps are run once more.
        """
        plan = self.schedule.plan(count, gradients=self.has_gradients)
        if plan.gradient_slots > self.gradient_slots:
            plan = self.schedule.plan(count, gradients=False)
        return plan

    @property
    def may_replay(self) -> bool:
        """Whether a plan may do anything but keep all states and gradients."""
        return self.schedule != StoreAll()


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class TwoLevelPlan:
    """How a streamed run is reversed.

    Attributes:
      steps: T, the number of training steps.
      outer: the plan over ceil(T / L) segments.
      tier_of_slot: for each slot of `outer`, an index into TIERS.
      segment_slots: what the device does within a segment.
      sizes: bytes.
      estimate: what a run is expected to take; None if nothing has been measured.
      room: the most slots that each tier may have, for runs of more steps. A tier that has more
        than that has as many as it has.
      recomputed: which activations are computed again, in words; empty if none are.
    """

    steps: int
    outer: Plan
    tier_of_slot: tuple[int, ...]
    segment_slots: SegmentSlots
    sizes: Sizes
    estimate: TwoLevelEstimate | None = None
    room: tuple[int, int, int] = (0, 0, 0)
    recomputed: str = ""

    def validate(self) -> None:
        """Runs the plans on step numbers, and looks whether the parts fit together.

        Raises:
          ValueError: a plan is wrong, or the parts do not fit together.
        """
        self.outer.validate()
        if self.outer.steps != math.ceil(self.steps / self.segment) or self.outer.gradient_slots:
            raise ValueError(
                f"the outer plan is of {self.outer.steps} segments, with "
                f"{self.outer.gradient_slots} gradient slots; {self.steps} steps in segments of "
                f"{self.segment} need {math.ceil(self.steps / self.segment)}, and none"
            )
        if len(self.tier_of_slot) != self.outer.state_slots:
            raise ValueError(
                f"{self.outer.state_slots} slots, but {len(self.tier_of_slot)} tiers for them"
            )
        left = self.steps - (self.outer.steps - 1) * self.segment
        for count in {left, min(self.segment, self.steps)}:
            plan = self.segment_slots.plan(count)
            plan.validate()
            slots = self.segment_slots
            if plan.state_slots > slots.state_slots or plan.gradient_slots > slots.gradient_slots:
                raise ValueError(f"the plan of a segment of {count} steps has too many slots")

    def moves(self) -> list[Move]:
        """The states that go into slots and come from them, in order."""
        return moves(self.outer, [TIERS[i] for i in self.tier_of_slot])

    @property
    def predicted_seconds(self) -> float | None:
        """The time of a run, predicted from measured costs. None if they are not known."""
        return None if self.estimate is None else self.estimate.seconds

    @property
    def segment(self) -> int:
        """L, the most steps of a segment."""
        return self.segment_slots.steps

    @functools.cached_property
    def inner(self) -> Plan:
        """The plan of the device, for a whole segment."""
        return self.segment_slots.plan(min(self.segment, self.steps))

    @property
    def bytes_by_tier(self) -> dict[str, int]:
        """Bytes that are held in each tier: slots, and on the device also what a segment takes."""
        counts = [self.tier_of_slot.count(i) for i in range(len(TIERS))]
        held = {name: count * self.sizes.state for name, count in zip(TIERS, counts)}
        inner = self.inner.slot_bytes(self.sizes.state, self.sizes.gradient)
        held["device"] += inner + segment_bytes(self.segment, self.sizes)
        return held

    @property
    def bytes(self) -> int:
        """Bytes on the device: slots, the slots within a segment, and its batches."""
        return self.bytes_by_tier["device"]

    @functools.cached_property
    def advances(self) -> int:
        """Steps run with a gradient computed for them, both levels together, up to the raggedness
        of the last segment."""
        within = self.inner.advances * self.outer.steps
        return self.outer.advances * self.segment + within

    def replayed(self, count: int) -> int:
        """Steps that the reversal of a segment of `count` steps runs on the device."""
        return self.segment_slots.plan(count).advances

    def for_steps(self, steps: int) -> TwoLevelPlan:
        """The plan of another number of steps with the same segments, so that nothing is compiled.

        It has the slots of this plan where it needs as many, and more where there is room.
        """
        tiers = list(self.tier_of_slot)
        for tier in (1, 2, 0):  # the host's memory, the disk, the device
            tiers += [tier] * (self.room[tier] - tiers.count(tier))
        segments = math.ceil(steps / self.segment)
        slots = min(segments, len(tiers))
        outer = Binomial(slots, keep_gradients=False).plan(segments, gradients=False)
        tiers = tiers[: outer.state_slots]
        return dataclasses.replace(
            self, steps=steps, outer=outer, tier_of_slot=tuple(tiers), estimate=None
        )

    def __repr__(self) -> str:
        return (
            f"<TwoLevelPlan: steps={self.steps}, segment={self.segment}, "
            f"slots={self.outer.state_slots}>"
        )

    def __str__(self) -> str:
        names = [TIERS[i] for i in self.tier_of_slot]
        where = ", ".join(f"{names.count(tier)} {tier}" for tier in TIERS if tier in names)
        held = ", ".join(
            f"{tier} {format_bytes(size)}" for tier, size in self.bytes_by_tier.items() if size
        )
        time = []
        if self.estimate is not None:
            time = [
                f"  time                      {format_seconds(self.estimate.seconds)} predicted, "
                f"{format_seconds(self.estimate.waiting)} of it waiting for moves",
                f"  costs                     {costs_line(self.estimate.costs)}",
            ]
        return "\n".join(
            [
                f"{self.steps:,} steps, streamed in {self.outer.steps:,} "
                f"segment{'s' * (self.outer.steps != 1)} of {self.segment:,}",
                f"  states between segments   {self.outer.state_slots:,} "
                f"slot{'s' * (self.outer.state_slots != 1)} ({where})",
                f"  segments run              {self.outer.advances:,} to make states, "
                "and each once more when it is reversed",
                f"  within a segment          {self.inner!r}",
                f"  bytes                     {held}",
                *([f"  remat                     {self.recomputed}"] if self.recomputed else []),
                *time,
            ]
        )

    def _repr_html_(self) -> str:
        return preformatted(str(self))


MOST_SLOTS = 100_000
"""Slots for small states, of which memory would hold any number."""

AHEAD = 4
"""Segments of batches that are in memory at a time: read ahead, under way, in use."""


def segment_bytes(length: int, sizes: Sizes) -> int:
    """Bytes on the device beside all slots, with segments of `length` steps.

    `sizes.step` is what a step takes beside its batch: rows of aux, gradients of batches.
    """
    return sizes.workspace + length * (sizes.step + AHEAD * sizes.batch)


def choose(
    steps: int,
    sizes: Sizes,
    *,
    has_gradients: bool,
    memory: int,
    schedule: Schedule | None,
    tiers: Sequence[int] = (1,),
) -> TwoLevelPlan:
    """A plan without knowing what anything costs.

    Half of the memory is for a segment: it is as long as fits with all its states and gradients,
    but not longer than balances the states between segments with those within. The other half is
    for the states between segments.

    Args:
      steps: T.
      memory: bytes that may be used.
      schedule: of the segments; None holds as many states as fit.
      tiers: the tiers in which these states are.
    """
    of_step = sizes.state + sizes.gradient + AHEAD * sizes.batch
    fits = max(1, memory // 2 // max(1, of_step))
    balanced = math.ceil(math.sqrt(steps * max(1, sizes.state) / max(1, of_step)))
    length = max(1, min(steps, fits, max(balanced, 8)))
    segments = math.ceil(steps / length)
    room = [0, 0, 0]
    if schedule is None:
        fitting = min(MOST_SLOTS, max(1, memory // 2 // max(1, sizes.state)))
        schedule = Binomial(min(segments, fitting), keep_gradients=False)
        for tier in tiers:
            room[tier] = fitting // len(tiers)
    outer = schedule.plan(segments, gradients=False)
    return TwoLevelPlan(
        steps,
        outer,
        tuple(tiers[i % len(tiers)] for i in range(outer.state_slots)),
        SegmentSlots.of(length, StoreAll(), has_gradients),
        sizes,
        room=(room[0], room[1], room[2]),
    )
