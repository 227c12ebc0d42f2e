"""The clock that prices are measured with."""

from __future__ import annotations

import time

import jax


def now() -> float:
    """Seconds. On a CPU they are the processor's, for this process, on all threads: what else the
    machine does is not in them. With an accelerator it is the wall clock's."""
    return time.process_time() if jax.default_backend() == "cpu" else time.perf_counter()
