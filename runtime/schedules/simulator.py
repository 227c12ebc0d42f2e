"""The simulator: runs a plan on step numbers in place of states.

It proves the plan right and counts the slots in use. It is native code: a plan of a million steps
takes some milliseconds.
"""

from __future__ import annotations

from typing import NamedTuple

from metagrad import _native
from metagrad.runtime.schedules.plan import Plan


class Simulation(NamedTuple):
    """What a run of the plan used.

    Attributes:
      state_slots, gradient_slots: slots of each kind in use at the worst moment. A slot is in use
        from when it is written to when that content is last read.
    """

    state_slots: int
    gradient_slots: int


def simulate(plan: Plan) -> Simulation:
    """Runs `plan` on step numbers.

    Raises:
      ValueError: the plan is wrong. The message names the segment, the run in it, and what the slot
          holds.
    """
    try:
        peak = _native.simulate(
            plan.steps,
            plan.state_slots,
            plan.gradient_slots,
            plan.load,
            plan.segment,
            plan.run_steps,
            plan.run_save,
            plan.run_keep,
            plan.run_reuse,
            plan.gradient,
        )
    except ValueError as error:
        raise ValueError(
            f"the plan{' of ' + plan.schedule if plan.schedule else ''} is wrong: {error}"
        ) from None
    return Simulation(*peak)
