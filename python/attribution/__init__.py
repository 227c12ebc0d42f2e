"""What each training example, or token, contributed to what a run ended up with.

`scores` are exact: the metagradient of an outcome with respect to the weight of each example
(Ilyas and Engstrom 2025, "MAGIC: Near-Optimal Data Attribution for Deep Learning",
arXiv 2504.16430). `retrain`, `lds` and `leave_k_out` hold them, or those of any other method,
against trainings without some of the examples. `baselines` has the usual approximations.
"""

from metagrad.attribution import baselines
from metagrad.attribution.comparison import Comparison, compare
from metagrad.attribution.leave_k_out import LeaveKOut, leave_k_out
from metagrad.attribution.linear_datamodelling import LDS, lds
from metagrad.attribution.retraining import Retrained, retrain
from metagrad.attribution.score_table import Scores
from metagrad.attribution.scoring import scores
from metagrad.attribution.subsets import leave_out, random_subsets
from metagrad.attribution.weighted import TrainingState, WeightedTraining

__all__ = [
    "LDS",
    "Comparison",
    "LeaveKOut",
    "Retrained",
    "Scores",
    "TrainingState",
    "WeightedTraining",
    "baselines",
    "compare",
    "lds",
    "leave_k_out",
    "leave_out",
    "random_subsets",
    "retrain",
    "scores",
]
