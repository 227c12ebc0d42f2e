"""Which numbers the differences of a staircase show over many of its stairs."""

from __future__ import annotations

import math
from collections.abc import Sequence

from metagrad.diagnostics.finite_differences import PREDICTS, ROUGH, DirectionCheck


def near_at_large_steps(checks: Sequence[DirectionCheck], numbers: Sequence[float]) -> str:
    """At which of the large step sizes all differences are near these numbers, and how near.

    In words, and empty if at none: the best size, if it is within 20%, and those next to it that
    are within 10%.

    Args:
      checks: the directions.
      numbers: a derivative along each of them.
    """
    sizes = [h for h in checks[0].step_sizes if h >= ROUGH]
    if len(numbers) != len(checks) or not any(numbers) or not sizes:
        return ""
    errors = [_largest_error(checks, numbers, i) for i in range(len(sizes))]
    first = last = errors.index(min(errors))
    if errors[first] > 2 * PREDICTS:
        return ""
    while first > 0 and errors[first - 1] <= PREDICTS:
        first -= 1
    while last + 1 < len(errors) and errors[last + 1] <= PREDICTS:
        last += 1
    where = f"sizes from {range_of(sizes[last], sizes[first])}"
    if first == last:
        where = f"size {sizes[first]:.0e}"
    directions = " in all directions" if len(checks) > 1 else ""
    return f"for step {where} they are within {max(errors[first : last + 1]):.0%}{directions}"


def range_of(low: float, high: float) -> str:
    return f"{low:.0e} to {high:.0e}"


def _largest_error(checks: Sequence[DirectionCheck], numbers: Sequence[float], i: int) -> float:
    """Of the differences for one step size, relative; infinite where one is not finite."""
    errors = []
    for check, number in zip(checks, numbers):
        off, scale = abs(check.differences[i] - number), max(abs(number), check.least)
        errors.append(off / scale if scale and not math.isnan(off) else math.inf)
    return max(errors)
