"""What is shown while a descent goes on: a line that is refreshed, plain lines, or a function."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from metagrad.api import progress as compiling
from metagrad.api.refreshed import Refreshed, medium
from metagrad.api.run_progress import LINE_EVERY
from metagrad.mgd.results import Best
from metagrad.mgd.rounds import Position
from metagrad.runtime.stage_reports import LISTENER


@dataclasses.dataclass(frozen=True)
class DescentProgress:
    """How far a descent is.

    Attributes:
      done: rounds that have been made, by earlier processes too.
      rounds: how many there are at most.
      value: that of the last round; None before the first.
      best: the lowest so far; None before the first. Its `meta` has None for what is not optimised.
      elapsed: seconds since the descent began, or went on.
      remaining: seconds that the other rounds will take at the pace so far; None if no round has
        been made since.
    """

    done: int
    rounds: int
    value: float | None
    best: Best | None
    elapsed: float
    remaining: float | None


class Display:
    """Takes the positions of a descent.

    Args:
      rounds: how many there are at most.
      function: called with a `DescentProgress` after each round; None: nobody is.
    """

    def __init__(self, rounds: int, function: Callable[[DescentProgress], object] | None):
        self._rounds, self._function = rounds, function
        self._began = time.monotonic()
        self._first: int | None = None
        self._position: Position | None = None
        self.stage = ""

    def begin(self, position: Position) -> None:
        self._position, self._first = position, len(position.records)

    def report(self, position: Position) -> None:
        self._position, self.stage = position, ""
        if self._function is not None:
            self._function(self.progress())

    def progress(self) -> DescentProgress:
        """How far it is now. Any thread may ask."""
        position, elapsed = self._position, time.monotonic() - self._began
        if position is None:
            return DescentProgress(0, self._rounds, None, None, elapsed, None)
        records = position.records
        own = [row.seconds for row in records[self._first :]]
        # The first round compiles.
        pace = sum(own[1:]) / len(own[1:]) if len(own) > 1 else sum(own) if own else None
        rest = self._rounds - len(records)
        return DescentProgress(
            len(records),
            self._rounds,
            records[-1].value if records else None,
            position.best,
            elapsed,
            None if pace is None else pace * rest,
        )

    def line(self) -> str:
        return f"metagrad: {line(self.progress())}" + (f", {self.stage}" if self.stage else "")


def line(now: DescentProgress) -> str:
    """A `DescentProgress` as a line of text."""
    parts = [f"round {now.done} of {now.rounds}"]
    if now.value is not None and now.best is not None:
        parts.append(
            f"value {now.value:.5g}, lowest {now.best.value:.5g} in round {now.best.round}"
        )
    parts.append(f"{_time(now.elapsed)} elapsed")
    if now.remaining is not None:
        parts.append(f"{_time(now.remaining)} left")
    return ", ".join(parts)


def _time(seconds: float) -> str:
    """Seconds as "0:01:05"."""
    return str(datetime.timedelta(seconds=round(seconds)))


class Lines(Display):
    """Plain lines on the standard error, after rounds, none within LINE_EVERY of the one before."""

    def __init__(self, rounds: int):
        super().__init__(rounds, None)
        self._printed = self._began

    def report(self, position: Position) -> None:
        super().report(position)
        is_last = len(position.records) == self._rounds
        if is_last or time.monotonic() - self._printed >= LINE_EVERY:
            self._printed = time.monotonic()
            print(self.line(), file=sys.stderr, flush=True)


@contextlib.contextmanager
def shown(progress: Any, rounds: int, streamed: bool) -> Iterator[Display]:
    """What the option `progress` of `metagrad.descent` wants.

    Args:
      streamed: whether the metagradient draws a bar of its own, to which a line that is refreshed
        would be a second one.
    """
    how = medium(progress)
    if how == "lines" or (how and streamed):
        yield Lines(rounds)
    elif how == "refreshed":
        with _refreshed(Display(rounds, None), 0.0 if progress else compiling.WAIT) as display:
            yield display
    else:
        yield Display(rounds, progress if callable(progress) else None)


@contextlib.contextmanager
def _refreshed(display: Display, wait: float) -> Iterator[Display]:
    """The stages of a compilation are in the line, and have no line of their own."""
    from rich.text import Text

    def stage(name: str) -> None:
        display.stage = name

    token = LISTENER.set(stage)
    drawn = Refreshed(lambda: Text(display.line(), no_wrap=True, overflow="ellipsis"), wait)
    try:
        yield display
    finally:
        drawn.close()
        LISTENER.reset(token)
