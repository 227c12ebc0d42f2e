"""Periodic checkpointing: the training run saves every n-th state.

Each segment of n steps is then run once more, saving all its states. That is one replay in all,
whatever T is: less than 2 T advances, with T / n + n - 1 state slots. n = sqrt(T) is the best
(Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost", arXiv 1604.06174).
"""

from __future__ import annotations

import dataclasses

from metagrad import _native
from metagrad.runtime.schedules.arguments import check, check_steps, leaf_options
from metagrad.runtime.schedules.plan import Plan
from metagrad.runtime.schedules.text import call


@dataclasses.dataclass(frozen=True, repr=False)
class Periodic:
    """One level of checkpoints.

    Attributes:
      every: steps between the states that the training run saves.
      keep_gradients: segments keep the inner gradients of their steps, in `every` gradient slots.
      rebuild: a segment holds every rebuild-th state, and those between are rebuilt from kept
        gradients, at the cost of an optimiser update each.

    Raises:
      TypeError, ValueError: an argument is not an int or bool, or too small.
    """

    every: int
    keep_gradients: bool = True
    rebuild: int = 1

    def __post_init__(self):
        check(self, every=1, rebuild=1)

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
        fields = _native.plan_periodic(steps, min(self.every, steps), min(rebuild, steps), keep)
        return Plan(**fields, schedule=str(self))

    def __repr__(self) -> str:
        return call(self)
