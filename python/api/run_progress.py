"""What is shown while a metagradient runs: a bar over both sweeps, or plain lines in a log."""

from __future__ import annotations

import contextlib
import datetime
import sys
import threading
import time
from collections.abc import Iterator
from typing import Protocol

from metagrad.api import progress as compiling
from metagrad.api.progress import ProgressOption
from metagrad.api.refreshed import Refreshed, medium
from metagrad.runtime.byte_sizes import format_bytes
from metagrad.runtime.progress_reports import Progress, Reporter

LINE_EVERY = 10.0
"""Seconds between two plain lines, at least."""

QUIET = 60.0
"""Seconds between two plain lines, at most; before that there is one for each tenth of the work."""


class Display(Protocol):
    def close(self) -> None:
        """The run is over."""


@contextlib.contextmanager
def reported(
    progress: ProgressOption,
    advances: int,
    vjps: int,
    *,
    advanced: int = 0,
    reversed: int = 0,
    predicted: tuple[float, float] | None = None,
) -> Iterator[Reporter]:
    """The object that an executor reports to, and what is shown of the reports meanwhile.

    Args:
      progress: when something is shown.
        None: on a terminal or in a notebook, after two seconds, unless METAGRAD_PROGRESS=0.
        True: at once, and as plain lines on the standard error where that is not a terminal.
        False: never.
        A function: it is called with a `Progress`, and nothing is shown.
      advances, vjps, advanced, reversed, predicted: see `Reporter`.
    """
    reporter = Reporter(
        advances,
        vjps,
        advanced=advanced,
        reversed=reversed,
        predicted=predicted,
        callback=progress if callable(progress) else None,
    )
    display = _display(progress, reporter)
    try:
        yield reporter
    finally:
        if display is not None:
            display.close()


def _display(progress: ProgressOption, reporter: Reporter) -> Display | None:
    match medium(progress):
        case "refreshed":
            wait = 0.0 if progress else compiling.WAIT
            return Refreshed(lambda: Bar(reporter.progress()), wait)
        case "lines":
            return Lines(reporter)
    return None


class Lines:
    """Plain lines on the standard error.

    There is one for each tenth of the work, and each QUIET seconds, but none within LINE_EVERY
    seconds of the one before; and one at the end, if there was one before.
    """

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._began = time.monotonic()
        self._printed = False
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="metagrad-progress", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._over.set()
        self._thread.join()
        if self._printed:
            _print(f"{_done(self._reporter.progress())} after {_time(self._elapsed())}")

    def _elapsed(self) -> float:
        return time.monotonic() - self._began

    def _watch(self) -> None:
        tenth, printed = 0, self._began
        while not self._over.wait(max(printed + LINE_EVERY - time.monotonic(), LINE_EVERY / 20)):
            now = self._reporter.progress()
            if int(10 * now.fraction) > tenth or time.monotonic() - printed >= QUIET:
                tenth, printed = int(10 * now.fraction), time.monotonic()
                self._printed = True
                _print(line(now))


def line(now: Progress) -> str:
    """A `Progress` as a line of text."""
    return ", ".join([now.phase, f"{now.fraction:.0%}", *_details(now)])


def _print(text: str) -> None:
    print(f"metagrad: {text}", file=sys.stderr, flush=True)


def _done(now: Progress) -> str:
    whole = now.advanced >= now.advances and now.reversed >= now.vjps
    return "the run is complete" if whole else f"the run ended at {now.fraction:.0%}"


def _details(now: Progress) -> list[str]:
    """What there is to say, the most important first."""
    times = f"{_time(now.elapsed)} elapsed"
    if now.remaining is not None:
        times += f", {_time(now.remaining)} left"
    return [
        times,
        f"{now.advanced:,} of {now.advances:,} steps",
        f"{now.reversed:,} of {now.vjps:,} VJPs",
        *(f"{tier} {format_bytes(size)}" for tier, size in now.bytes.items()),
    ]


def _time(seconds: float) -> str:
    """Seconds as "0:01:05"."""
    return str(datetime.timedelta(seconds=round(seconds)))


class Bar:
    """A `Progress` as one line for Rich, of as many details as the width has room for."""

    LEAST = 12
    """Columns that the bar takes, at least."""

    def __init__(self, now: Progress):
        self._now = now

    def __rich_console__(self, console, options):
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        left = f"metagrad: {self._now.phase} "
        right = f" {self._now.fraction:4.0%}"
        for detail in _details(self._now):
            if len(left) + self.LEAST + len(right) + len(detail) + 2 > options.max_width:
                break
            right += f", {detail}"
        grid = Table.grid(expand=True)
        grid.add_column(no_wrap=True)
        grid.add_column(ratio=1)
        grid.add_column(no_wrap=True)
        grid.add_row(Text(left), ProgressBar(1.0, self._now.fraction), Text(right))
        yield grid
