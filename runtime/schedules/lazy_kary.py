"""The lazy k-ary tree of Replay.

Engstrom et al. 2025, "Optimizing ML Training with Metagradient Descent", arXiv 2503.13751.

The run is split into k parts of equal length, each part again, down to leaves of k steps. States at
the starts of parts are saved while running through, and a part is opened only when the reversal
reaches it, from right to left. At most (k - 1) * ceil(log_k T) + 1 states are held at a time. Each
level of the tree runs a fraction (k - 1) / k of the steps once more.

Parts are equal up to one leaf, so all leaves but the first of the run are full. Where T is not a
power of k, this is what lets most VJPs find their gradient kept.
"""

from __future__ import annotations

import dataclasses

from metagrad import _native
from metagrad.runtime.schedules.arguments import check, check_steps, leaf_options
from metagrad.runtime.schedules.plan import Plan
from metagrad.runtime.schedules.text import call


@dataclasses.dataclass(frozen=True, repr=False)
class LazyKary:
    """The schedule of the Replay paper.

    Attributes:
      k: the number of parts that a segment is split into, at least 2.
      keep_gradients: leaves keep the inner gradients of their steps, in at most k * rebuild
          gradient slots.
      rebuild: a leaf holds every rebuild-th state, and those between are rebuilt from kept
        gradients, at the cost of an optimiser update each. The tree is then one over
        ceil(T / rebuild) macro-steps.

    Raises:
      TypeError, ValueError: an argument is not an int or bool, or too small.
    """

    k: int = 4
    keep_gradients: bool = True
    rebuild: int = 1

    def __post_init__(self):
        check(self, k=2, rebuild=1)

    def plan(self, steps: int, *, gradients: bool) -> Plan:
        """The plan for a training run.

        Args:
          steps: the number of training steps, at least 1.
          gradients: whether the step has inner gradients that can be kept.

        Raises:
          TypeError, ValueError: `steps` is not an int, or out of range; or states are to be rebuilt
              from gradients that are not kept.
        """
        steps = check_steps(steps)
        keep, rebuild = leaf_options(self, gradients=gradients)
        # A k or rebuild beyond T is as good as T.
        fields = _native.plan_lazy_kary(
            steps, min(self.k, max(steps, 2)), min(rebuild, steps), keep
        )
        return Plan(**fields, schedule=str(self))

    def __repr__(self) -> str:
        return call(self)
