"""What the table is asked: the aims, judged row by row, and counted."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any, NamedTuple

from benchmarks.mixflow.contenders import BY_HAND, DEFAULT

WANTED = 0.95
"""The part of the rows that should meet an aim."""

MEMORY_OF_DEFAULT = 1 / 10
TIME_OF_DEFAULT = 0.75
FROM_STEPS = 8
"""The aims against default JAX are for runs of at least so many steps."""


class Aim(NamedTuple):
    """An aim.

    Attributes:
      name: in words.
      other: the contender that metagrad is compared with.
      ratio: `ratio(ours, other)` of two entries of a row; None if it cannot be had.
      most: what the ratio may be.
      from_steps: the shortest runs that it is for.
    """

    name: str
    other: str
    ratio: Callable[[dict[str, Any], dict[str, Any]], float | None]
    most: float
    from_steps: int = 0


def memory_ratio(ours: dict[str, Any], other: dict[str, Any]) -> float | None:
    if not ours.get("memory_bytes") or not other.get("memory_bytes"):
        return None
    return ours["memory_bytes"] / other["memory_bytes"]


def time_ratio(ours: dict[str, Any], other: dict[str, Any]) -> float | None:
    """The median over rounds of the ratio within a round."""
    if not ours.get("times") or len(ours["times"]) != len(other.get("times", ())):
        return None
    return statistics.median(a / b for a, b in zip(ours["times"], other["times"]))


AIMS = (
    Aim(
        "a tenth of default JAX's memory at T >= 8",
        DEFAULT,
        memory_ratio,
        MEMORY_OF_DEFAULT,
        FROM_STEPS,
    ),
    Aim(
        "25% less time than default JAX at T >= 8", DEFAULT, time_ratio, TIME_OF_DEFAULT, FROM_STEPS
    ),
    Aim("no more memory than MixFlow by hand", BY_HAND, memory_ratio, 1.0),
    Aim("no more time than MixFlow by hand", BY_HAND, time_ratio, 1.0),
)


def judge(aim: Aim, row: dict[str, Any], ours: str) -> float | None:
    """The row's ratio; None if the aim is not for this row, or cannot be judged.

    Args:
      ours: which of metagrad's contenders is judged.
    """
    contenders = row["contenders"]
    if row["steps"] < aim.from_steps or ours not in contenders or aim.other not in contenders:
        return None
    return aim.ratio(contenders[ours], contenders[aim.other])


def counts(rows: list[dict[str, Any]], ours: str) -> list[str]:
    """A line for each aim: how many rows meet it, of those that can be judged, and which miss."""
    lines = []
    for aim in AIMS:
        ratios = {row["name"]: judge(aim, row, ours) for row in rows}
        judged = {name: ratio for name, ratio in ratios.items() if ratio is not None}
        missed = {name: ratio for name, ratio in judged.items() if ratio > aim.most}
        if not judged:
            lines.append(f"{ours}: {aim.name}: no row")
            continue
        met = len(judged) - len(missed)
        mark = "yes" if met >= WANTED * len(judged) else "NO"
        names = ", ".join(f"{name} ({ratio:.2f})" for name, ratio in missed.items())
        lines.append(
            f"{mark}: {ours}: {aim.name}: {met} of {len(judged)} rows"
            + (f"; not {names}" if missed else "")
        )
    return lines
