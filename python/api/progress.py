"""What is shown while a metagradient is compiled: the stage, and for how long.

On a terminal or in a notebook, and only if it takes longer than two seconds, this is a line that is
refreshed, and disappears when the work is done. A thread draws it, since XLA is busy in C++
meanwhile (it lets Python's other threads run). Text that is printed in between, such as a warning,
comes above the line.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator
from typing import Protocol

from metagrad.runtime.stage_reports import LISTENER

WAIT = 2.0
"""Seconds for which nothing is shown."""


class Display(Protocol):
    def stage(self, name: str) -> None:
        """A stage begins."""

    def close(self) -> None:
        """All is done."""


@contextlib.contextmanager
def shown(progress: bool | None) -> Iterator[None]:
    """Shows the stages that are reported inside.

    Args:
      progress: when they are shown.
        None: on a terminal or in a notebook, after two seconds, unless METAGRAD_PROGRESS=0.
        True: at once, and as plain lines on the standard error where that is not a terminal.
        False: never.
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


def _display(progress: bool | None) -> Display | None:
    if progress is False or (progress is None and os.environ.get("METAGRAD_PROGRESS") == "0"):
        return None
    if _is_terminal() or _is_notebook():
        return Live(0.0 if progress else WAIT)
    return Lines() if progress else None


def _is_terminal() -> bool:
    try:
        return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
    except (AttributeError, ValueError):  # there is none, or it is closed
        return False


def _is_notebook() -> bool:
    """Whether this is a Jupyter kernel.

    Rich knows several kinds; it is not asked where there is no IPython.
    """
    if "IPython" not in sys.modules:
        return False
    from rich.console import Console

    return Console().is_jupyter


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
        self._over = threading.Event()
        self._thread = threading.Thread(
            target=self._draw, args=(wait,), name="metagrad-progress", daemon=True
        )
        self._thread.start()

    def stage(self, name: str) -> None:
        self._name, self._stage_began = name, time.monotonic()

    def close(self) -> None:
        self._over.set()
        self._thread.join()

    def _draw(self, wait: float) -> None:
        if self._over.wait(wait):
            return
        from rich.console import Console
        from rich.live import Live as RichLive

        with RichLive(
            get_renderable=self._line,
            console=Console(stderr=True),
            transient=True,
            refresh_per_second=8,
            # What is printed to a file or a pipe stays there.
            redirect_stdout=sys.stdout is not None and sys.stdout.isatty(),
        ):
            self._over.wait()

    def _line(self):
        from rich.text import Text

        now = time.monotonic()
        text = f"metagrad: {self._name}, {now - self._stage_began:.0f} s"
        if self._stage_began - self._began >= 1:
            text += f" (compiling for {now - self._began:.0f} s)"
        return Text(text, no_wrap=True, overflow="ellipsis")
