"""Plans for the streamed executor: segments of L steps, and slots in tiers.

The run of T steps is cut into N = ceil(T / L) segments. The *outer* plan reverses N macro-steps;
its slots lie on the device, in the host's memory or on disk. The *inner* plan reverses the steps of
one segment on the device, from the state at its start.
"""

from __future__ import annotations

import dataclasses
from typing import Literal, NamedTuple

from metagrad.runtime.byte_sizes import format_bytes
from metagrad.runtime.schedules.costs import Costs
from metagrad.runtime.schedules.drawing import describe
from metagrad.runtime.schedules.estimate import format_seconds
from metagrad.runtime.schedules.plan import Plan

TIERS = ("device", "host", "disk")
_WHERE = {"device": "on the device", "host": "in the host's memory", "disk": "on disk"}


class Move(NamedTuple):
    """A state that goes into a slot or comes from one.

    Attributes:
      kind: "write" or "read".
      slot: the outer plan's slot.
      tier: where that lies.
      segment: the state is the one at the start of this segment.
      is_last: for a read: what the slot holds is not read again.
    """

    kind: Literal["write", "read"]
    slot: int
    tier: str
    segment: int
    is_last: bool = False


@dataclasses.dataclass(frozen=True)
class TwoLevelEstimate:
    """What a streamed run takes.

    Attributes:
      device, host, disk: bytes; on the device with workspace, batches and all.
      seconds: the predicted time.
      waiting: s; the part of it in which the device waits for moves.
      costs: what `seconds` rests on.
    """

    device: int
    host: int
    disk: int
    seconds: float
    waiting: float
    costs: Costs

    def lines(self) -> list[str]:
        """The estimate as text."""
        source = "measured on this machine" if self.costs.measured else "estimated, not measured"
        return [
            f"memory     {format_bytes(self.device)} on the device, {format_bytes(self.host)} of "
            f"the host's, {format_bytes(self.disk)} on disk",
            f"time       {format_seconds(self.seconds)} predicted, "
            f"{format_seconds(self.waiting)} of it waiting for moves, from costs {source}",
        ]


@dataclasses.dataclass(frozen=True)
class TwoLevelPlan:
    """How a streamed run is reversed.

    Attributes:
      steps: T.
      segment: L, the steps of a segment; the last one has those that are left.
      outer: the plan over the segments, which keeps no gradients.
      tiers: for each state slot of `outer`, where it lies.
      inner: the plan of a segment of L steps.
      last: the plan of the last segment, in no more slots than `inner` has.
      estimate: what a run is expected to take.

    Raises:
      ValueError: the parts do not fit together.
    """

    steps: int
    segment: int
    outer: Plan
    tiers: tuple[str, ...]
    inner: Plan
    last: Plan
    estimate: TwoLevelEstimate | None = None

    def __post_init__(self):
        segments = -(-self.steps // self.segment)
        left = self.steps - (segments - 1) * self.segment
        wanted = {"outer": segments, "inner": self.segment, "last": left}
        for name, steps in wanted.items():
            if getattr(self, name).steps != steps:
                raise ValueError(
                    f"TwoLevelPlan.{name} is of {getattr(self, name).steps} steps, not {steps}"
                )
        if self.outer.gradient_slots:
            raise ValueError("TwoLevelPlan.outer keeps gradients, which a segment has none of")
        if len(self.tiers) != self.outer.state_slots or not set(self.tiers) <= set(TIERS):
            raise ValueError(
                f"TwoLevelPlan.tiers must name one of {', '.join(TIERS)} for each of "
                f"{self.outer.state_slots} slots, got {self.tiers!r}"
            )
        for name in ("state_slots", "gradient_slots"):
            if getattr(self.last, name) > getattr(self.inner, name):
                raise ValueError(f"TwoLevelPlan.last has more {name} than TwoLevelPlan.inner")

    def validate(self) -> None:
        """Runs all plans on step numbers.

        Raises:
          ValueError: one of them is wrong.
        """
        for plan in (self.outer, self.inner, self.last):
            plan.validate()

    def slots_in(self, tier: str) -> int:
        """How many of the outer plan's slots lie in a tier."""
        return self.tiers.count(tier)

    def moves(self) -> list[Move]:
        """The states that go into slots and come from them, in order.

        A state that is never read is not written. The state before the first step is written to
        slot 0.
        """
        outer = self.outer
        moves = [Move("write", 0, self.tiers[0], 0)]
        holds = {0: 0}
        for r in range(outer.steps + 1):
            slot = int(outer.load[r])
            at = holds[slot]
            if r > 0:
                moves.append(Move("read", slot, self.tiers[slot], at))
            for q in range(int(outer.segment[r]), int(outer.segment[r + 1])):
                at += int(outer.run_steps[q])
                if (slot := int(outer.run_save[q])) >= 0:
                    holds[slot] = at
                    moves.append(Move("write", slot, self.tiers[slot], at))
        return _with_last_reads(moves)

    def __str__(self) -> str:
        segments = self.outer.steps
        slots = {tier: self.slots_in(tier) for tier in TIERS}
        tiers = ", ".join(f"{n:,} {_WHERE[tier]}" for tier, n in slots.items() if n)
        lines = [
            f"{self.outer.schedule}: {self.steps:,} steps in {segments:,} "
            f"segment{'s' * (segments != 1)} of {self.segment:,}",
            f"  slots      {tiers}",
            f"  advances   {self.outer.advances:,} segments; "
            f"each is run once more when it is reversed",
        ]
        if self.estimate is not None:
            lines += [f"  {line}" for line in self.estimate.lines()]
        return "\n".join([*lines, "", "A segment:", *describe(self.inner).splitlines()])


def _with_last_reads(moves: list[Move]) -> list[Move]:
    """Marks the last read of each content, and leaves out writes that nobody reads."""
    read_later: set[int] = set()
    kept = []
    for move in reversed(moves):
        if move.kind == "read":
            kept.append(move._replace(is_last=move.slot not in read_later))
            read_later.add(move.slot)
        elif move.slot in read_later:
            kept.append(move)
            read_later.discard(move.slot)
    return kept[::-1]
