"""What the streamed executor does, one action after the other: a plan over segments, laid out."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Sequence

from metagrad.runtime.schedules.plan import Plan


class Kind(enum.Enum):
    """What an action does.

    LOAD: the state comes from a slot. ADVANCE: it goes through a segment. SAVE: it goes into a
    slot. OUTER: the outer function and its VJP, at the end of the training run. REVERSE: the
    cotangents go back through a segment, at whose start the state is.
    """

    LOAD = "load"
    ADVANCE = "advance"
    SAVE = "save"
    OUTER = "outer"
    REVERSE = "reverse"


@dataclasses.dataclass(frozen=True)
class Action:
    """One action.

    Attributes:
      kind: what is done.
      segment: the segment, for ADVANCE and REVERSE; at which the state is, for LOAD and SAVE.
      slot: the slot, for LOAD and SAVE.
      is_last_read: for LOAD: nothing reads the slot's content after this.
      is_replay: for ADVANCE: the segment was gone through before.
    """

    kind: Kind
    segment: int = -1
    slot: int = -1
    is_last_read: bool = False
    is_replay: bool = False


def actions(plan: Plan) -> list[Action]:
    """The actions of a plan whose steps are segments, from the first state to the last VJP.

    Slot 0 is saved first. A plan that keeps gradients has no meaning here.
    """
    walk = [Action(Kind.SAVE, 0, 0)]
    slot_at = {0: 0}
    for r in range(plan.steps + 1):
        slot = int(plan.load[r])
        at = slot_at[slot]
        if r > 0:
            walk.append(Action(Kind.LOAD, at, slot))
        for q in range(plan.segment[r], plan.segment[r + 1]):
            for _ in range(int(plan.run_steps[q])):
                walk.append(Action(Kind.ADVANCE, at, is_replay=r > 0))
                at += 1
            if (slot := int(plan.run_save[q])) >= 0:
                walk.append(Action(Kind.SAVE, at, slot))
                slot_at[slot] = at
        walk.append(Action(Kind.REVERSE, at) if r > 0 else Action(Kind.OUTER, at))
    return _with_last_reads(walk)


def bounds(segment: int, length: int, steps: int) -> tuple[int, int]:
    """The first step of a segment of a run in segments of `length`, and how many steps it has."""
    first = segment * length
    return first, min(length, steps - first)


def _with_last_reads(walk: Sequence[Action]) -> list[Action]:
    """Marks the last read of each content of a slot; what is never read is not saved."""
    read_later: set[int] = set()
    marked = []
    for action in reversed(walk):
        if action.kind is Kind.LOAD:
            action = dataclasses.replace(action, is_last_read=action.slot not in read_later)
            read_later.add(action.slot)
        elif action.kind is Kind.SAVE:
            if action.slot not in read_later:
                continue
            read_later.discard(action.slot)
        marked.append(action)
    return marked[::-1]
