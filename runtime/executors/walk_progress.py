"""How far a streamed run is after each action of its walk."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from metagrad.runtime.executors.walk import Action, Kind
from metagrad.runtime.progress_reports import Phase

Count = tuple[Phase, int, int]
"""The phase, the steps that have been run, and the VJPs that have been taken."""


def counts(
    walk: Sequence[Action], length: int, steps: int, replay: Callable[[int], int] = lambda n: n
) -> list[Count]:
    """What to report after each action; what there is to do in all is in the last entry.

    Args:
      walk: the actions of a run of `steps` steps in segments of `length`.
      replay: how many steps a reversal of a segment of n steps runs on the device: `advances` of
        the device's own plan, for n steps.

    Returns:
      For 0 .. len(walk) actions done: the phase that the run is in then, and the counts.
    """
    phase: Phase = "training"
    advanced = reversed = 0
    listed: list[Count] = [(phase, 0, 0)]
    for done, action in enumerate(walk, start=1):
        here = min(length, steps - action.segment * length)
        if action.kind is Kind.ADVANCE:
            advanced += here
        elif action.kind is Kind.REVERSE:
            advanced += replay(here)
            reversed += here
        if done < len(walk) and walk[done].kind is Kind.OUTER:
            phase = "outer"
        elif phase == "outer":
            phase = "reversing"
        listed.append((phase, advanced, reversed))
    return listed
