"""Gives slots to held states and gradients: from segments to the tables of a plan.

A state or gradient takes a slot when it is written and gives it back after it was last read; one
that is never read takes none. The lowest free slot is taken, so the number of slots is the most
that are in use at a time.
"""

from __future__ import annotations

import dataclasses
import heapq
from typing import Any

import numpy as np


@dataclasses.dataclass(eq=False)
class Held:
    """A state s_t or a gradient G_t, held until segment `last` has read it."""

    step: int
    last: int = -1
    slot: int = -1


@dataclasses.dataclass
class Run:
    """Advances `steps`, then holds the state as `save`.

    A run of one step may hold its gradient as `keep`.
    """

    steps: int
    save: Held | None = None
    keep: Held | None = None


@dataclasses.dataclass
class Segment:
    """Starts from `load`, does `runs`, and ends in a VJP that takes `gradient`, or computes one."""

    load: Held
    runs: list[Run]
    gradient: Held | None


class _Free:
    """The free slots of one kind."""

    def __init__(self):
        self.count, self.given_back = 0, []

    def take(self) -> int:
        if self.given_back:
            return heapq.heappop(self.given_back)
        self.count += 1
        return self.count - 1

    def give_back(self, slot: int) -> None:
        heapq.heappush(self.given_back, slot)


def tables(steps: int, segments: list[Segment], *, keep: bool) -> dict[str, Any]:
    """The fields of a Plan. Without `keep`, no gradient is held."""
    for r, segment in enumerate(segments):
        segment.load.last = r
        if segment.gradient and keep:
            segment.gradient.last = r
    states, gradients = _Free(), _Free()
    segments[0].load.slot = states.take()
    load, bounds, taken = [], [0], []
    runs: list[list[int]] = []  # steps, save, keep
    for r, segment in enumerate(segments):
        load.append(segment.load.slot)
        if segment.load.last == r:
            states.give_back(segment.load.slot)
        for run in segment.runs:
            for held, free in ((run.save, states), (run.keep, gradients)):
                if held and held.last > r:
                    held.slot = free.take()
            save, kept = (held.slot if held else -1 for held in (run.save, run.keep))
            if len(runs) > bounds[-1] and kept < 0 and runs[-1][1:] == [-1, -1]:
                runs[-1][:2] = [runs[-1][0] + run.steps, save]
            else:
                runs.append([run.steps, save, kept])
        bounds.append(len(runs))
        taken.append(segment.gradient.slot if segment.gradient else -1)
        if segment.gradient and segment.gradient.last == r:
            gradients.give_back(segment.gradient.slot)
    run_steps, run_save, run_keep = np.array(runs, np.int64).reshape(-1, 3).T
    return {
        "steps": steps,
        "state_slots": states.count,
        "gradient_slots": gradients.count,
        "load": np.array(load),
        "segment": np.array(bounds),
        "run_steps": run_steps,
        "run_save": run_save,
        "run_keep": run_keep,
        "run_reuse": np.full(len(runs), -1),
        "gradient": np.array(taken),
    }
