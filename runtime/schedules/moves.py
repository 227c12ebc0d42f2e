"""What a streamed run moves: the states that go into slots and come from them, in order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from metagrad.runtime.schedules.plan import Plan

TIERS = ("device", "host", "disk")


class Move(NamedTuple):
    """A state that goes into a slot or comes from one.

    Attributes:
      kind: "write" or "read".
      slot: the outer plan's slot.
      tier: where that lies: "device", "host" or "disk".
      segment: the state is the one at the start of this segment.
      is_last: for a read: what the slot holds is not read again.
    """

    kind: Literal["write", "read"]
    slot: int
    tier: str
    segment: int
    is_last: bool = False


def moves(outer: Plan, tiers: Sequence[str]) -> list[Move]:
    """The moves of a plan over segments.

    A state that is never read is not written. The state before the first step is written to slot 0.

    Args:
      outer: the plan.
      tiers: for each of its state slots, where it lies.
    """
    all_moves = [Move("write", 0, tiers[0], 0)]
    holds = {0: 0}
    for r in range(outer.steps + 1):
        slot = int(outer.load[r])
        at = holds[slot]
        if r > 0:
            all_moves.append(Move("read", slot, tiers[slot], at))
        for q in range(int(outer.segment[r]), int(outer.segment[r + 1])):
            at += int(outer.run_steps[q])
            if (slot := int(outer.run_save[q])) >= 0:
                holds[slot] = at
                all_moves.append(Move("write", slot, tiers[slot], at))
    return _with_last_reads(all_moves)


def _with_last_reads(all_moves: list[Move]) -> list[Move]:
    """Marks the last read of each content, and leaves out writes that nobody reads."""
    read_later: set[int] = set()
    kept = []
    for move in reversed(all_moves):
        if move.kind == "read":
            kept.append(move._replace(is_last=move.slot not in read_later))
            read_later.add(move.slot)
        elif move.slot in read_later:
            kept.append(move)
            read_later.discard(move.slot)
    return kept[::-1]
