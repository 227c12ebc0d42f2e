"""Programs that are timed against each other: in turns, so that other work falls on all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import jax

NameT = TypeVar("NameT", bound=Hashable)


def in_turns(
    programs: Mapping[NameT, Callable[[], Any]],
    rounds: Iterable[int],
    clock: Callable[[], float] = time.perf_counter,
) -> dict[NameT, list[float]]:
    """Seconds of each run, after one of each that is not counted.

    Each round runs all programs, in an order that is reversed from round to round.
    """
    times: dict[NameT, list[float]] = {name: [] for name in programs}
    order = list(programs)
    for program in programs.values():
        jax.block_until_ready(program())
    for _ in rounds:
        for name in order:
            start = clock()
            jax.block_until_ready(programs[name]())
            times[name].append(clock() - start)
        order.reverse()
    return times


def for_seconds(seconds: float, fewest: int, most: int | None = None) -> Iterator[int]:
    """Numbers of rounds, until so much time has passed."""
    end, number = time.perf_counter() + seconds, 0
    while number < fewest or ((most is None or number < most) and time.perf_counter() < end):
        yield number
        number += 1


def median_ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """The median of the ratios of two times of one round."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))
