"""`metagrad.attribution.leave_k_out`: the predicted change against the true one."""

from __future__ import annotations

import dataclasses

import numpy as np

from metagrad.attribution.linear_datamodelling import check_alike
from metagrad.attribution.retraining import Retrained
from metagrad.attribution.score_table import Scores


@dataclasses.dataclass(frozen=True)
class LeaveKOut:
    """Changes of the outcomes, predicted and true.

    Attributes:
      predicted: [m, Q], what the scores say.
      true: [m, Q], what training on the subsets gave, less the outcome of all examples.
    """

    predicted: np.ndarray
    true: np.ndarray

    @property
    def correlation(self) -> np.ndarray:
        """[Q], Pearson's correlation over the subsets. It does not see a wrong scale."""
        a, b = (table - table.mean(0) for table in (self.predicted, self.true))
        return (a * b).sum(0) / np.sqrt((a**2).sum(0) * (b**2).sum(0))

    @property
    def slope(self) -> np.ndarray:
        """[Q], of the least-squares line through 0 of true over predicted changes; 1 is right."""
        return (self.predicted * self.true).sum(0) / (self.predicted**2).sum(0)

    @property
    def relative_error(self) -> np.ndarray:
        """[Q], the norm of (predicted - true) over that of the true changes."""
        return np.linalg.norm(self.predicted - self.true, axis=0) / np.linalg.norm(
            self.true, axis=0
        )

    def __repr__(self) -> str:
        rows, queries = self.true.shape
        return f"LeaveKOut({rows} subsets, {queries} queries: {self})"

    def __str__(self) -> str:
        means = (each.mean() for each in (self.correlation, self.slope, self.relative_error))
        return "correlation {:.3f}, slope {:.3f}, relative error {:.3f}".format(*means)


def leave_k_out(scores: Scores, retrained: Retrained) -> LeaveKOut:
    """Compares changes that scores predict with those of trainings that leave examples out.

    It looks at sizes, where `lds` looks at ranks. `leave_out(n, k, count)` draws the subsets.

    Args:
      scores: of any method. Those of TracIn and of similarities have a scale of their own, which
        shows as a slope.
      retrained: from `retrain`.

    Returns:
      A `LeaveKOut`, with the correlation, the slope and the relative error of each query.

    Raises:
      TypeError: `scores` are no `Scores`, or `retrained` is no `Retrained`.
      ValueError: the numbers of queries or of examples differ.
      FloatingPointError: an outcome or a score is NaN.
    """
    check_alike(scores, retrained)
    predicted = scores.predict(retrained.subsets) - scores.outcomes
    return LeaveKOut(predicted, retrained.outcomes.astype(float) - retrained.full)
