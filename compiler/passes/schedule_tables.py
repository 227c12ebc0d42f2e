"""The tables that pass `schedule` writes into the program: a plan as its one loop reads it."""

from __future__ import annotations

from typing import Any

import numpy as np

from metagrad.runtime.schedules.plan import Plan


def loop_tables(plan: Plan, *, gradients: bool) -> dict[str, np.ndarray]:
    """The plan as the loop reads it.

    Behind the runs of each segment but the first stands one that only takes the gradient for the
    VJP.

    Args:
      plan: the schedule's plan.
      gradients: whether the step has inner gradients; without them there is nothing to take.

    Returns:
      Integer tables by name. For each segment: `load`, `start` (the step of the state that is
      loaded), `segment`. For each run: `run_steps`, `run_save`, `run_keep`, `run_reuse`, and
      `run_update` (1: the run applies the update; 0: it only takes the gradient).
    """
    segments = plan.steps + 1
    lengths = np.diff(plan.segment)
    owner = np.repeat(np.arange(segments), lengths)
    advanced = np.bincount(owner, weights=plan.run_steps, minlength=segments).astype(np.int64)
    reached = plan.steps - np.arange(segments)
    reached[0] = plan.steps
    runs = {
        "run_steps": plan.run_steps,
        "run_save": plan.run_save,
        "run_keep": plan.run_keep,
        "run_reuse": plan.run_reuse,
        "run_update": np.ones_like(plan.run_steps),
    }
    segment = plan.segment
    if gradients:
        ends = segment[2:]
        last: dict[str, Any] = {
            "run_steps": 1,
            "run_save": -1,
            "run_keep": -1,
            "run_reuse": plan.gradient[1:],
            "run_update": 0,
        }
        runs = {name: np.insert(values, ends, last[name]) for name, values in runs.items()}
        segment = segment + np.maximum(np.arange(segments + 1) - 1, 0)
    return {"load": plan.load, "start": reached - advanced, "segment": segment} | runs
