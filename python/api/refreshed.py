"""Where progress is shown, and the line that is refreshed there."""

from __future__ import annotations

import io
import os
import sys
import threading
from collections.abc import Callable
from typing import Any, Literal

from metagrad.runtime.displayed import preformatted

_NOTEBOOK = 100
"""Columns of the line in a notebook."""


def medium(progress: Any) -> Literal["refreshed", "lines"] | None:
    """How the option `progress` wants something shown, on the standard error as it is now.

    "refreshed": one line, again and again, on a terminal or in a notebook. "lines": one below the
    other. None: nothing.
    """
    if progress is False or callable(progress):
        return None
    if progress is None and os.environ.get("METAGRAD_PROGRESS") == "0":
        return None
    if _is_terminal() or _is_notebook():
        return "refreshed"
    return "lines" if progress else None


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


class Refreshed:
    """A line that a thread draws again and again, and that is removed at the end.

    It is a thread, since XLA is busy in C++ meanwhile (it lets Python's other threads run). Text
    that is printed in between, such as a warning, comes above the line.

    Args:
      line: gives what Rich is to draw.
      wait: seconds for which nothing is drawn.
    """

    def __init__(self, line: Callable[[], Any], wait: float) -> None:
        self._line = line
        self._over = threading.Event()
        self._thread = threading.Thread(
            target=self._draw, args=(wait,), name="metagrad-progress", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        self._over.set()
        self._thread.join()

    def _draw(self, wait: float) -> None:
        if self._over.wait(wait):
            return
        if _is_terminal():
            self._draw_on_terminal()
        else:
            self._draw_in_notebook()

    def _draw_on_terminal(self) -> None:
        from rich.console import Console
        from rich.live import Live

        with Live(
            get_renderable=self._line,
            console=Console(stderr=True),
            transient=True,
            refresh_per_second=8,
            # What is printed to a file or a pipe stays there.
            redirect_stdout=sys.stdout is not None and sys.stdout.isatty(),
        ):
            self._over.wait()

    def _draw_in_notebook(self) -> None:
        """An output that is replaced. Rich's own needs ipywidgets, and shows nothing without."""
        from IPython.display import display

        shown = display({"text/plain": ""}, raw=True, display_id=True)
        if shown is None:  # no frontend listens
            return
        while not self._over.wait(0.25):
            text = _as_text(self._line())
            shown.update({"text/plain": text, "text/html": preformatted(text)}, raw=True)
        shown.update({"text/plain": "", "text/html": ""}, raw=True)


def _as_text(line: Any) -> str:
    from rich.console import Console

    output = io.StringIO()
    Console(file=output, width=_NOTEBOOK, color_system=None, force_jupyter=False).print(line)
    return output.getvalue().rstrip()
