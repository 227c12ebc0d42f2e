"""No replay: the training run saves each of its states, in T state slots and T advances."""

from __future__ import annotations

import dataclasses

from metagrad import _native
from metagrad.runtime.schedules.arguments import check, check_steps
from metagrad.runtime.schedules.plan import Plan
from metagrad.runtime.schedules.text import call


@dataclasses.dataclass(frozen=True, repr=False)
class StoreAll:
    """Everything is saved in the training run.

    Attributes:
      keep_gradients: the inner gradients of all steps are kept too, in T gradient slots.

    Raises:
      TypeError: the argument is not a bool.
    """

    keep_gradients: bool = True

    def __post_init__(self):
        check(self)

    def plan(self, steps: int, *, gradients: bool) -> Plan:
        """The plan for a training run.

        Args:
          steps: the number of training steps, at least 1.
          gradients: whether the step has inner gradients that can be kept.

        Raises:
          TypeError, ValueError: `steps` is not an int, or out of range.
        """
        steps = check_steps(steps)
        fields = _native.plan_periodic(steps, steps, 1, self.keep_gradients and gradients)
        return Plan(**fields, schedule=str(self))

    def __repr__(self) -> str:
        return call(self)
