"""Reports of the stage that is being worked on.

The frontend and the compiler report here, in the lowest of the folders; python/api/progress.py
listens and shows the stage to the user.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable

LISTENER: contextvars.ContextVar[Callable[[str], None] | None] = contextvars.ContextVar(
    "metagrad_stage_listener", default=None
)
"""Called with the name of each stage, in this thread; None where nobody listens."""


def stage(name: str) -> None:
    """Says that `name` begins, and that the stage before it is over: "tracing train_step", say."""
    listener = LISTENER.get()
    if listener is not None:
        listener(name)
