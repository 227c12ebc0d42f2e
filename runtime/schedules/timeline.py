"""When what happens in a streamed run: the device computes while states move.

The device does one thing after the other. Each tier but the device has a line for writes and one
for reads. A write begins when the state is there; at most `WRITES_AHEAD` are under way before the
run waits. A read begins `ACTIONS_AHEAD` actions early, after the slot was written, and the run
waits until it is over.
"""

from __future__ import annotations

import collections
from typing import NamedTuple

from metagrad.runtime.schedules.plan import Plan

WRITES_AHEAD = 2
ACTIONS_AHEAD = 2


class MoveSeconds(NamedTuple):
    """Seconds of a write and of a read of one state in a tier."""

    write: float
    read: float


class Timeline(NamedTuple):
    """Seconds of a run in all, and those in which the device waits for moves."""

    seconds: float
    waiting: float


class _Clock:
    def __init__(self, move_seconds: dict[str, MoveSeconds]):
        self.now, self.busy = 0.0, 0.0
        self.move_seconds = move_seconds
        self.line_free: dict[tuple[str, str], float] = collections.defaultdict(float)
        self.writes: collections.deque[float] = collections.deque()
        self.written: dict[int, float] = {}
        # When the last actions began: a read is asked for at the first of them.
        self.begun = collections.deque([0.0] * ACTIONS_AHEAD, maxlen=ACTIONS_AHEAD)

    def compute(self, seconds: float, count: int = 1) -> None:
        """`count` actions, one after the other."""
        for action in range(max(0, count - ACTIONS_AHEAD), count):
            self.begun.append(self.now + action * seconds)
        self.now += count * seconds
        self.busy += count * seconds

    def write(self, slot: int, tier: str) -> None:
        seconds = self.move_seconds[tier].write
        if tier == "device":
            self.compute(seconds)
            self.written[slot] = self.now
            return
        while len(self.writes) >= WRITES_AHEAD:
            self.now = max(self.now, self.writes.popleft())
        line = (tier, "write")
        self.line_free[line] = max(self.now, self.line_free[line]) + seconds
        self.writes.append(self.line_free[line])
        self.written[slot] = self.line_free[line]

    def read(self, slot: int, tier: str) -> None:
        seconds = self.move_seconds[tier].read
        if tier == "device":
            self.compute(seconds)
            return
        line = (tier, "read")
        begin = max(self.begun[0], self.line_free[line], self.written[slot])
        self.line_free[line] = begin + seconds
        self.begun.append(self.now)
        self.now = max(self.now, begin + seconds)


def timeline(
    outer: Plan,
    tiers: tuple[str, ...],
    move_seconds: dict[str, MoveSeconds],
    advance: float,
    reverse: float,
) -> Timeline:
    """The time of a streamed run.

    Args:
      outer: the plan over segments.
      tiers: for each of its slots, where it lies.
      move_seconds: of a state, by tier.
      advance, reverse: s; of a segment run, and of a segment reversed.
    """
    clock = _Clock(move_seconds)
    clock.write(0, tiers[0])
    load, bounds = outer.load.tolist(), outer.segment.tolist()
    steps, saves = outer.run_steps.tolist(), outer.run_save.tolist()
    for r in range(outer.steps + 1):
        if r > 0:
            clock.read(load[r], tiers[load[r]])
        for q in range(bounds[r], bounds[r + 1]):
            clock.compute(advance, steps[q])
            if saves[q] >= 0:
                clock.write(saves[q], tiers[saves[q]])
        if r > 0:
            clock.compute(reverse)
    return Timeline(clock.now, clock.now - clock.busy)
