"""Definition 2 in numbers: three sets of parameters, and how far their movements agree in sign."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

NOISE_FACTOR = 2.0
"""A difference counts as decided if it is larger than this many standard deviations of noise."""


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How far two movements of the parameters agree.

    Attributes:
      value: sum_i |d_i| sign(d_i) sign(e_i) / sum_i |d_i| for the movements d and e.
      leaves: the same of each leaf alone; NaN for a leaf that does not move.
      shares: each leaf's share of the movement sum_i |d_i|.
      movement: (sum_i |d_i|, sum_i |e_i|).
      undecided: the share of the movement in entries where rounding may have made either sign.
    """

    value: float
    leaves: tuple[float, ...]
    shares: tuple[float, ...]
    movement: tuple[float, float]
    undecided: float


def agreement(
    first: Sequence[np.ndarray],
    second: Sequence[np.ndarray],
    third: Sequence[np.ndarray],
    noise: Sequence[np.ndarray],
) -> Agreement:
    """The agreement of second - first with third - second.

    Args:
      first, second, third: the parameters of three trainings, float64 arrays, leaf by leaf.
      noise: the standard deviation of what rounding adds to a difference of two of them.
    """
    d = [b - a for a, b in zip(first, second)]
    e = [c - b for b, c in zip(second, third)]
    sums = np.array([np.abs(x).sum() for x in d])
    agreeing = np.array([np.sum(x * np.sign(y)) for x, y in zip(d, e)])
    open_sums = [np.sum(np.abs(x)[_is_open(x, y, n)]) for x, y, n in zip(d, e, noise)]
    total = float(sums.sum())
    over = lambda part, whole: float(part) / float(whole) if whole else math.nan
    return Agreement(
        over(agreeing.sum(), total),
        tuple(over(a, s) for a, s in zip(agreeing, sums)),
        tuple(over(s, total) for s in sums),
        (total, float(sum(np.abs(y).sum() for y in e))),
        over(sum(open_sums), total),
    )


def _is_open(d: np.ndarray, e: np.ndarray, noise: np.ndarray) -> np.ndarray:
    return np.minimum(np.abs(d), np.abs(e)) <= NOISE_FACTOR * noise


def rounding_noise(
    params: Sequence[np.ndarray], nudged: Sequence[np.ndarray] | None, epsilons: Sequence[float]
) -> list[np.ndarray]:
    """What rounding adds to a difference of two trainings, entry by entry.

    It is at least what storing a parameter rounds away. How a training amplifies its rounding is
    seen by training once more from a configuration that differs in the last bit: a leaf's noise is
    the root mean square of what that changes in the leaf.

    Args:
      params: the parameters of one training, float64, leaf by leaf.
      nudged: those of the training that differs in the last bit of z, or None.
      epsilons: each leaf's machine epsilon.
    """
    stored = [epsilon * np.abs(p) for p, epsilon in zip(params, epsilons)]
    if nudged is None:
        return stored
    size = lambda x: math.sqrt(np.mean(x**2)) if x.size else 0.0
    return [np.maximum(s, size(q - p)) for s, p, q in zip(stored, params, nudged)]
