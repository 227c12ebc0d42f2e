"""Binomial checkpointing, optimal for a given number of slots: Revolve.

A. Griewank and A. Walther, "Algorithm 799: Revolve: an implementation of checkpointing for the
reverse or adjoint mode of computational differentiation", ACM TOMS 26(1), 2000. Reversing n steps
with s slots, that of the first state included, takes

    t(n, s) = r n - C(s + r, s + 1)   advances, r the least integer with n <= C(s + r, s)

and no schedule takes fewer. The outer function is the last of these steps, so a training run of T
steps is reversed in t(T + 1, s) advances, the training run's own T among them.

Up to T = C(s + 2, 2) - 1 no step is run more than twice: that is 324 for s = 24.
"""

from __future__ import annotations

import dataclasses

from metagrad import _native
from metagrad.runtime.schedules.arguments import check, check_steps, leaf_options
from metagrad.runtime.schedules.plan import Plan
from metagrad.runtime.schedules.text import call


@dataclasses.dataclass(frozen=True, repr=False)
class Binomial:
    """The fewest advances that a number of state slots allows.

    Where there is a choice, each split takes the longest first part: the number of advances is the
    same, and more VJPs find their gradient kept.

    Attributes:
      slots: the number of state slots, that of s_0 included.
      keep_gradients: leaves (segments that the free slots can hold in full) keep the inner
        gradients of their steps, in at most `slots` gradient slots; with rebuild > 1, in less than
        (slots + 1) * rebuild.
      rebuild: a leaf holds every rebuild-th state, and those between are rebuilt from kept
        gradients, at the cost of an optimiser update each. The schedule is then one over
        ceil(T / rebuild) macro-steps. With rebuild > 1 it takes one slot beyond `slots`, for the
        start of the macro-step that is being reversed.

    Raises:
      TypeError, ValueError: an argument is not an int or bool, or too small.
    """

    slots: int
    keep_gradients: bool = True
    rebuild: int = 1

    def __post_init__(self):
        check(self, slots=1, rebuild=1)

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
        fields = _native.plan_binomial(steps, min(self.slots, steps), min(rebuild, steps), keep)
        return Plan(**fields, schedule=str(self))

    def __repr__(self) -> str:
        return call(self)
