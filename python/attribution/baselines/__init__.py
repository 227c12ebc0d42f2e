"""Approximations that attribution is usually made with, to compare with and to start from.

All of them look at gradients of single parameters (at the end of training, or at checkpoints), and
not through training. They take `losses(params, examples) -> [n]` (or [n, L] for tokens) and
`outcome(params, *outer_args)`, a scalar or a vector of Q queries, and return `Scores` with the sign
of a derivative in an example's weight: negative where more of the example lowers the outcome.
"""

from metagrad.attribution.baselines.curvature import GaussNewton
from metagrad.attribution.baselines.ekfac import ekfac
from metagrad.attribution.baselines.influence import influence
from metagrad.attribution.baselines.similarity import gradient_similarity
from metagrad.attribution.baselines.tracin import tracin

__all__ = ["GaussNewton", "ekfac", "gradient_similarity", "influence", "tracin"]
