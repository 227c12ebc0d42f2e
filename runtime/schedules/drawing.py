"""A plan as text: its counts, and a picture of its first segments.

The picture is in the manner of Figure 3 of the Replay paper:

      states  0 .. 8
      train   o───S─S═S═     the training run from s_0; it saves s_4, s_6, s_7
                             and keeps the last two gradients
      VJP     ······<<·      at t = 7, then at t = 6

Columns are states. A walk is a segment that computes gradients; the VJPs that follow, until the
next walk, share the row below it.
"""

from __future__ import annotations

import numpy as np

from metagrad.runtime.schedules.plan import Plan

_COLUMNS = 72
_WALKS = 8
_LEGEND = (
    "o loaded  S saved  ─ step  ═ step, gradient kept  < VJP  "
    "~ VJP, its state rebuilt from kept gradients"
)


def describe(plan: Plan) -> str:
    """The plan's counts, one per line, and its picture."""
    T = plan.steps
    lines = [
        f"{plan.schedule or 'plan'}: {_count(T, 'step')}",
        f"  slots      {_count(plan.state_slots, 'state')}, "
        f"{_count(plan.gradient_slots, 'gradient')}",
        f"  advances   {plan.advances:,}, {plan.advances / T:.2f} per step "
        f"(a full step each; {T:,} are the training run)",
        f"  updates    {plan.updates:,}, {plan.updates / T:.2f} per step (from kept gradients)",
        f"  VJPs       {plan.vjps:,}, "
        f"of which {plan.gradients_on_the_spot:,} compute their gradient on the spot",
        f"  saves      {plan.saves:,}, in {_count(plan.runs, 'run')}",
    ]
    if plan.estimate is not None:
        lines += [f"  {line}" for line in plan.estimate.lines()]
    return "\n".join([*lines, "", *picture(plan)])


def picture(plan: Plan, columns: int = _COLUMNS, walks: int = _WALKS) -> list[str]:
    """The plan's first walks over its last `columns` states, as lines of text."""
    first = max(0, plan.steps + 1 - columns)
    rows: list[tuple[str, list[str]]] = []
    holds = np.zeros(plan.state_slots, np.int64)
    for r in range(plan.steps + 1):
        runs = range(plan.segment[r], plan.segment[r + 1])
        t = int(holds[plan.load[r]])
        if any(plan.run_reuse[q] < 0 for q in runs):
            if len(rows) == 2 * walks or plan.steps - r < first:
                break
            rows += [
                ("train" if r == 0 else "replay", _row(plan, first)),
                ("VJP", _row(plan, first)),
            ]
            _mark(rows[-2][1], t - first, "o")
        for q in runs:
            end = t + int(plan.run_steps[q])
            if plan.run_reuse[q] < 0:
                for state in range(max(t + 1, first), end + 1):
                    _mark(rows[-2][1], state - first, "═" if plan.run_keep[q] >= 0 else "─")
            if plan.run_save[q] >= 0:
                holds[plan.run_save[q]] = end
                _mark(rows[-2][1], end - first, "S")
            t = end
        if r > 0:
            _mark(rows[-1][1], t - first, "~" if runs and plan.run_reuse[runs[-1]] >= 0 else "<")
    else:
        r = plan.steps + 1
    ahead = "…" if first else ""
    lines = [f"  states  {first} .. {plan.steps}"]
    lines += [
        f"  {name:<8}{ahead}{''.join(row)}"
        for name, row in rows
        if name == "train" or set(row) != {"·"}
    ]
    if r <= plan.steps:
        lines.append(f"  and so on for {_count(plan.steps + 1 - r, 'more VJP')}")
    return [*lines, f"  {_LEGEND}"]


def _row(plan: Plan, first: int) -> list[str]:
    return ["·"] * (plan.steps + 1 - first)


def _mark(row: list[str], column: int, sign: str) -> None:
    if column >= 0:
        row[column] = sign


def _count(count: int, noun: str) -> str:
    return f"{count:,} {noun if count == 1 else noun + 's'}"
