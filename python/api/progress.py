"""What is shown while a metagradient is compiled: the stage, and for how long.

On a terminal or in a notebook, and only if it takes longer than two seconds, this is a line that is
refreshed, and disappears when the work is done. What is shown while it runs: run_progress.py.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from metagrad.api.refreshed import Refreshed, medium
from metagrad.runtime.progress_reports import Progress
from metagrad.runtime.stage_reports import LISTENER

WAIT = 2.0
"""Seconds for which nothing is shown."""

ProgressOption = bool | None | Callable[[Progress], object]
"""The values of the option `progress`."""


def check_progress(progress: Any) -> None:
    """Raises ValueError for what the option `progress` does not take."""
    if progress not in (None, True, False) and not callable(progress):
        raise ValueError(
            f"progress={progress!r} is none of None, True and False, and not a function of a "
            "metagrad.Progress"
        )


class Display(Protocol):
    def stage(self, name: str) -> None:
        """A stage begins."""

    def close(self) -> None:
        """All is done."""


@contextlib.contextmanager
def shown(progress: ProgressOption) -> Iterator[None]:
    """Shows the stages that are reported inside.

    Args:
      progress: when they are shown.
        None: on a terminal or in a notebook, after two seconds, unless METAGRAD_PROGRESS=0.
        True: at once, and as plain lines on the standard error where that is not a terminal.
        False, or a function (it is told of runs): never.
    """
    display = None if LISTENER.get() is not None else _display(progress)
    if display is None:
        yield
        return
    token = LISTENER.set(display.stage)
    try:
        yield
    finally:
        LISTENER.reset(token)
        display.close()


def _display(progress: ProgressOption) -> Display | None:
    match medium(progress):
        case "refreshed":
            return Live(0.0 if progress else WAIT)
        case "lines":
            return Lines()
    return None


class Lines:
    """A line for each stage as it begins."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def stage(self, name: str) -> None:
        elapsed = time.monotonic() - self._began
        print(f"metagrad: {name} (after {elapsed:.1f} s)", file=sys.stderr, flush=True)

    def close(self) -> None:
        elapsed = time.monotonic() - self._began
        print(f"metagrad: done in {elapsed:.1f} s", file=sys.stderr, flush=True)


class Live:
    """One line that is refreshed, from `wait` seconds on, and removed at the end."""

    def __init__(self, wait: float) -> None:
        self._name = "compiling"
        self._began = self._stage_began = time.monotonic()
        self._refreshed = Refreshed(self._line, wait)

    def stage(self, name: str) -> None:
        self._name, self._stage_began = name, time.monotonic()

    def close(self) -> None:
        self._refreshed.close()

    def _line(self):
        from rich.text import Text

        now = time.monotonic()
        text = f"metagrad: {self._name}, {now - self._stage_began:.0f} s"
        if self._stage_began - self._began >= 1:
            text += f" (compiling for {now - self._began:.0f} s)"
        return Text(text, no_wrap=True, overflow="ellipsis")
