"""`metagrad.attribution.lds`: how well scores predict trainings on subsets, by rank."""

from __future__ import annotations

import dataclasses

import numpy as np

from metagrad.attribution.retraining import Retrained
from metagrad.attribution.score_table import Scores


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

    The interval is the percentile bootstrap over the subsets (scipy.stats.bootstrap), with ranks
    among all of them: among those of a resample there would be ties, and lower correlations.
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
      ValueError: the numbers of queries or of examples differ, there are too few subsets, or a
        query has the same outcome, or the same prediction, for all of them.
    """
    predicted, true = scores.predict(retrained.subsets), retrained.outcomes
    check_alike(scores, retrained)
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
    """Checks that both have the same queries."""
    if len(scores.outcomes) != len(retrained.full):
        raise ValueError(
            f"scores has {len(scores.outcomes)} queries, and retrained {len(retrained.full)}"
        )


def _ranks(table: np.ndarray) -> np.ndarray:
    """[m, Q]: of each query's outcomes among those of all subsets, with mean 0."""
    from scipy import stats

    ranks = stats.rankdata(table, axis=0)
    return ranks - ranks.mean(0)


def _correlations(a: np.ndarray, b: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Pearson's correlation of each query's ranks over some rows: [..., Q] for rows [..., m].

    0 where all rows have one rank, as in a resample that draws the same subset each time.
    """
    a, b = (ranks[rows] - ranks[rows].mean(-2, keepdims=True) for ranks in (a, b))
    norms = np.sqrt((a**2).sum(-2) * (b**2).sum(-2))
    return np.divide((a * b).sum(-2), norms, out=np.zeros_like(norms), where=norms > 0)


def _interval(
    a: np.ndarray, b: np.ndarray, confidence: float, resamples: int, seed: int
) -> tuple[float, float]:
    from scipy import stats

    def mean_correlation(rows: np.ndarray, axis: int = -1) -> np.ndarray:
        return _correlations(a, b, np.moveaxis(rows, axis, -1)).mean(-1)

    interval = stats.bootstrap(
        (np.arange(len(a)),),
        mean_correlation,
        vectorized=True,
        n_resamples=resamples,
        batch=100,
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(interval.low), float(interval.high)
