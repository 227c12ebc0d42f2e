"""`metagrad.attribution.lds`: how well scores predict trainings on subsets, by rank."""

from __future__ import annotations

import dataclasses

import numpy as np

from metagrad.attribution.retraining import Retrained
from metagrad.attribution.score_table import Scores

_AT_ONCE = 100
"""Resamples that are held at the same time."""


@dataclasses.dataclass(frozen=True)
class LDS:
    """The linear datamodelling score.

    Attributes:
      value: the mean over the queries of Spearman's correlation, in [-1, 1].
      interval: (low, high), a bootstrap interval over the subsets.
      per_query: [Q], Spearman's correlation of each query.
      confidence: of the interval.
    """

    value: float
    interval: tuple[float, float]
    per_query: np.ndarray
    confidence: float

    def __str__(self) -> str:
        low, high = self.interval
        return f"LDS {self.value:.3f} [{low:.3f}, {high:.3f}]"


def lds(
    scores: Scores,
    retrained: Retrained,
    *,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> LDS:
    """The linear datamodelling score (Park et al. 2023, "TRAK", arXiv 2303.14186).

    For each query it is Spearman's correlation, over subsets, of the outcome of training on the
    subset with the sum of the scores of its examples; then the mean over the queries.

    The interval is the percentile bootstrap over the subsets, with ranks among all of them: among
    those of a resample there would be ties, and lower correlations. Resamples in which a query has
    one rank alone, which has no correlation, are left out; they come up among few subsets.
    Queries are taken as they are: the interval says how much the value would change with other
    subsets, and not with other queries.

    Args:
      scores: of any method.
      retrained: from `retrain`, at least three subsets.
      confidence: of the interval, in (0, 1).
      resamples: how often the subsets are drawn anew.
      seed: of these draws.

    Returns:
      An `LDS`.

    Raises:
      TypeError: `scores` are no `Scores`, or `retrained` is no `Retrained`.
      ValueError: the numbers of queries or of examples differ, there are too few subsets, a query
        has the same outcome, or the same prediction, for all of them, or an option is out of range.
      FloatingPointError: an outcome or a prediction is NaN.
    """
    if not 0 < confidence < 1 or resamples < 1:
        raise ValueError(
            f"confidence={confidence!r} must lie between 0 and 1, and resamples={resamples!r} be "
            "at least 1"
        )
    check_alike(scores, retrained)
    predicted, true = scores.predict(retrained.subsets), retrained.outcomes
    if len(true) < 3:
        raise ValueError(f"retrained has {len(true)} subsets; a rank correlation needs three")
    for name, table in (("outcome", true), ("prediction", predicted)):
        constant = np.flatnonzero(np.ptp(table, axis=0) == 0).tolist()
        if constant:
            raise ValueError(f"the queries {constant[:8]} have one {name} for all subsets")
    ranks = _ranks(predicted), _ranks(true)
    per_query = _correlations(*ranks, np.arange(len(true)))
    interval = _interval(*ranks, confidence, resamples, seed)
    return LDS(float(per_query.mean()), interval, per_query, confidence)


def check_alike(scores: Scores, retrained: Retrained) -> None:
    """Checks that both are what they should be, and have the same queries, and numbers for each.

    Raises:
      TypeError: one is of another kind.
      ValueError: they have different queries.
      FloatingPointError: a score or an outcome is NaN.
    """
    for name, value, kind in (("scores", scores, Scores), ("retrained", retrained, Retrained)):
        if not isinstance(value, kind):
            raise TypeError(f"{name} must be {kind.__name__}, and is a {type(value).__name__}")
    if len(scores.outcomes) != len(retrained.full):
        raise ValueError(
            f"scores has {len(scores.outcomes)} queries, and retrained {len(retrained.full)}"
        )
    subsets, queries = np.nonzero(np.isnan(retrained.outcomes))
    if len(subsets):
        raise FloatingPointError(
            f"retrained.outcomes is NaN for the subsets {_some(subsets)} in the queries "
            f"{_some(queries)}: these trainings diverged. Leave them out, or train at a lower rate."
        )
    unknown = np.flatnonzero(np.isnan(scores.of_examples()).any(1))
    if len(unknown):
        raise FloatingPointError(f"scores.values has a NaN in the queries {_some(unknown)}")


def _some(numbers: np.ndarray) -> list[int]:
    """The first of them, each once."""
    return np.unique(numbers)[:8].tolist()


def _ranks(table: np.ndarray) -> np.ndarray:
    """[m, Q]: of each query's outcomes among those of all subsets, with mean 0."""
    from scipy import stats

    ranks = stats.rankdata(table, axis=0)
    return ranks - ranks.mean(0)


def _correlations(a: np.ndarray, b: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Pearson's correlation of each query's ranks over some rows: [..., Q] for rows [..., m]."""
    a, b = (ranks[rows] - ranks[rows].mean(-2, keepdims=True) for ranks in (a, b))
    return (a * b).sum(-2) / np.sqrt((a**2).sum(-2) * (b**2).sum(-2))


def _interval(
    a: np.ndarray, b: np.ndarray, confidence: float, resamples: int, seed: int
) -> tuple[float, float]:
    random, m = np.random.default_rng(seed), len(a)
    means = []
    for first in range(0, resamples, _AT_ONCE):
        rows = random.integers(0, m, (min(_AT_ONCE, resamples - first), m))
        with np.errstate(invalid="ignore"):  # 0 / 0 where a query has one rank alone
            means.append(_correlations(a, b, rows).mean(-1))
    defined = np.concatenate(means)
    defined = defined[np.isfinite(defined)]
    if not len(defined):
        return float("nan"), float("nan")
    low, high = np.quantile(defined, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
