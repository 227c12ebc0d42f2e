"""Where a sequence repeats itself at once: abcabcabc, a tandem repeat.

A Python loop over the layers of a model traces to one.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import NamedTuple

import numpy as np

_LAGS = 64
"""How many equal entries of weight a period may have, at most."""

_CLEARLY = 1.1
"""How much heavier a repeat must be to be taken before one of a shorter period."""

_ABOUT = 1.05
"""A cut that costs this much more than the cheapest is as good."""


@dataclasses.dataclass(frozen=True)
class Repeat:
    """entries[start:stop], in which each entry is equal to the one `period` later.

    It has at least two periods. The last one may be incomplete.
    """

    start: int
    stop: int
    period: int


def heaviest_repeat(numbers: np.ndarray, weights: np.ndarray) -> Repeat | None:
    """The repeat with the largest weight, and of those of about that weight the shortest period.

    Args:
      numbers: int64[n], the entries.
      weights: f64[n], not negative. A repeat has at least one entry with a weight.
    """
    before = np.concatenate([[0.0], np.cumsum(weights)])
    best, best_weight = None, 0.0
    for period in _periods(numbers, weights):
        for start, end in _runs(numbers[:-period] == numbers[period:], period):
            stop = end + period
            weight = before[stop] - before[start]
            if weight > _CLEARLY * best_weight:
                best, best_weight = Repeat(start, stop, int(period)), weight
    return best


def _periods(numbers: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Distances between equal entries with a weight, in order."""
    heavy = np.flatnonzero(weights > 0)
    order = np.argsort(numbers[heavy], kind="stable")
    places, of = heavy[order], numbers[heavy][order]
    distances = [
        (places[lag:] - places[:-lag])[of[lag:] == of[:-lag]]
        for lag in range(1, min(_LAGS, len(places) - 1) + 1)
    ]
    found = np.unique(np.concatenate([np.zeros(0, np.int64), *distances]))
    return found[found <= len(numbers) // 2]


def _runs(equal: np.ndarray, least: int) -> list[tuple[int, int]]:
    """(start, end) of the stretches of at least `least` in which all is true."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], equal, [False]]).astype(np.int8)))
    starts, ends = edges[::2], edges[1::2]
    long = ends - starts >= least
    return list(zip(starts[long].tolist(), ends[long].tolist()))


class Span(NamedTuple):
    """Entries start to stop."""

    start: int
    stop: int


def cut(repeat: Repeat, cost: np.ndarray, weights: np.ndarray) -> list[Span]:
    """A repeat cut into its periods where that costs least; what is left at its ends is cut off.

    Of places that cost about the same it is the one that leaves the lightest ends.

    Args:
      repeat: of n entries.
      cost: [n + 1], of a cut in front of each entry, and behind the last.
      weights: [n], of the entries.
    """
    before = np.concatenate([[0.0], np.cumsum(weights)])

    def places(first: int) -> list[int]:
        return list(range(first, repeat.stop + 1, repeat.period))

    def of_ends(first: int) -> float:
        last = places(first)[-1]
        return before[first] - before[repeat.start] + before[repeat.stop] - before[last]

    firsts = range(repeat.start, repeat.start + repeat.period)
    costs = [np.mean(cost[places(first)]) for first in firsts]
    cheap = [first for first, each in zip(firsts, costs) if each <= _ABOUT * min(costs)]
    cuts = sorted({repeat.start, *places(min(cheap, key=of_ends)), repeat.stop})
    return [Span(*pair) for pair in itertools.pairwise(cuts)]
