"""Who works says at what; who shows it to the user listens (python/api/progress.py).

Here, in the lowest of the folders, so that the frontend and the compiler can say it.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable

LISTENER: contextvars.ContextVar[Callable[[str], None] | None] = contextvars.ContextVar(
    "metagrad_stage_listener", default=None
)
"""What is told of each stage, in this thread; None where nobody listens."""


def stage(name: str) -> None:
    """Says that `name` begins, and that the stage before it is over: "tracing train_step", say."""
    listener = LISTENER.get()
    if listener is not None:
        listener(name)
