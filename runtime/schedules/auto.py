"""The fastest plan within a budget.

A plan is chosen among trees: a segment is a *leaf*, run through once with its gradients kept and
then reversed from them, or it is *split* and both parts are reversed, the right one first. What a
leaf needs of states is made again by updates alone, as Revolve does it. So a slot may hold a state,
a state and its gradient, or a gradient alone. `StoreAll`, `Binomial`, `Periodic` and `LazyKary`
make such trees too, with and without kept gradients, for any `rebuild`.

For given numbers of slots the fastest tree is found by dynamic programming (runs up to some
hundred steps) or by Lagrange's multiplier (longer ones, with a bound from below); native code tries
the numbers of slots that fit. Among the plans within 1% of the fastest the one that takes the
least memory is chosen.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from metagrad import _native
from metagrad.runtime.byte_sizes import format_bytes, parse_bytes
from metagrad.runtime.schedules.arguments import check_steps
from metagrad.runtime.schedules.costs import Costs, Sizes
from metagrad.runtime.schedules.estimate import estimated
from metagrad.runtime.schedules.plan import Plan
from metagrad.runtime.schedules.text import call

SLACK = 0.01
"""A plan that takes this much longer than the fastest is as good, if it takes less memory."""

_MOST_BYTES = 2**62


class DoesNotFit(ValueError):
    """No plan fits the budget."""


@dataclasses.dataclass(frozen=True, repr=False)
class Auto:
    """The fastest plan within budgets, from costs that are measured once per step and machine.

    Attributes:
      memory: bytes on the device for slots, workspace and all: an int, or a text as "4GiB". None:
        what the device has free.
      host: bytes of the host's memory for slots of a streamed run. None: what the host has free.
      disk: bytes on disk for slots of a streamed run. None: nothing is put on disk.

    Raises:
      TypeError, ValueError: a budget is not a number of bytes.
    """

    memory: int | str | None = None
    host: int | str | None = None
    disk: int | str | None = None

    def __post_init__(self):
        for field in dataclasses.fields(self):
            self.budget(field.name)

    def budget(self, name: str) -> int | None:
        """The budget "memory", "host" or "disk" in bytes, or None where it was left open."""
        value = getattr(self, name)
        return None if value is None else parse_bytes(f"Auto({name}=...)", value)

    def plan(
        self,
        steps: int,
        *,
        gradients: bool,
        sizes: Sizes | None = None,
        measure: Callable[[], Costs] | None = None,
        free: int | None = None,
    ) -> Plan:
        """The plan for a fused program, with its estimate.

        A run that fits with everything stored needs no costs, and nothing is measured for it.

        Args:
          steps: the number of training steps, at least 1.
          gradients: whether the step has inner gradients that can be kept.
          sizes: bytes of what the program holds.
          measure: gives the costs. It is called only if something has to be run again.
          free: bytes that the device has free: the budget if `memory` is None. None: no limit.

        Raises:
          TypeError: `steps` is not an int; or `sizes`, or a `measure` that is needed, is missing.
          ValueError: `steps` is out of range.
          DoesNotFit: no plan fits the budget. The message says what the smallest needs.
        """
        steps = check_steps(steps)
        if sizes is None:
            raise TypeError(
                "Auto.plan needs sizes=...: it chooses by the bytes of a state and of a gradient; "
                "a metagradient passes them when it is lowered"
            )
        budget = self.budget("memory")
        budget = free if budget is None else budget
        budget = _MOST_BYTES if budget is None else min(budget, _MOST_BYTES)
        if everything_bytes(steps, gradients, sizes) <= budget and measure is None:
            everything = _native.plan_periodic(steps, steps, 1, gradients)
            return estimated(Plan(**everything, schedule=str(self)), sizes)
        if measure is None:
            if smallest_bytes(steps, sizes) > budget:
                raise DoesNotFit(self._too_small(budget, steps, sizes))
            raise TypeError(
                "Auto.plan needs measure=...: not everything fits, and what to run again depends "
                "on costs"
            )
        costs = measure()
        sizes = costs.sizes  # a measurement knows the workspace as well
        if smallest_bytes(steps, sizes) > budget:
            raise DoesNotFit(self._too_small(budget, steps, sizes))
        plan = _fastest_plan(steps, gradients, sizes, costs, budget)
        return dataclasses.replace(plan, schedule=str(self))

    def _too_small(self, budget: int, steps: int, sizes: Sizes) -> str:
        smallest = smallest_bytes(steps, sizes)
        whose = "" if self.memory is not None else ", what the device has free,"
        return (
            f"{self}: no plan for {steps:,} steps fits {format_bytes(budget)}{whose}; the smallest "
            f"needs {format_bytes(smallest)} ({smallest:,} bytes): {format_bytes(sizes.state)} "
            f"for a state, {format_bytes(sizes.workspace)} of workspace, and "
            f"{format_bytes(smallest - sizes.state - sizes.workspace)} that grow with the steps. "
            f'Set memory="{rounded_up(smallest)}" or more'
        )

    def __repr__(self) -> str:
        return call(self)


@dataclasses.dataclass(frozen=True)
class Tree:
    """The fastest tree for numbers of slots, whatever the number of steps.

    Attributes:
      state_slots, gradient_slots: the most that are used.
      weights: as of `tree_weights`.
    """

    state_slots: int
    gradient_slots: int
    weights: tuple[float, float, float, float]

    def plan(self, steps: int, *, gradients: bool) -> Plan:
        """The plan for `steps` steps; without `gradients` none are kept."""
        fields = _native.plan_tree(
            steps,
            min(steps, self.state_slots),
            min(steps, self.gradient_slots) if gradients else 0,
            *self.weights,
        )
        return Plan(**fields, schedule=f"Tree({self.state_slots}, {self.gradient_slots})")


def fastest_tree(steps: int, gradients: bool, sizes: Sizes, costs: Costs, budget: int) -> Tree:
    """The smallest of the trees that take no more than SLACK longer than the fastest.

    Args:
      steps: the number of steps.
      gradients: whether inner gradients can be kept.
      sizes: bytes; those of `costs` but for the workspace.
      costs: seconds.
      budget: bytes; the smallest plan fits.
    """
    weights = tree_weights(costs)
    state_slots, gradient_slots = _native.search(
        steps,
        *weights,
        _rest(steps, costs),
        budget - sizes.fixed(steps) - _table_bytes(steps),
        sizes.state,
        sizes.gradient,
        gradients,
        SLACK,
    )
    return Tree(state_slots, gradient_slots, weights)


def _fastest_plan(steps: int, gradients: bool, sizes: Sizes, costs: Costs, budget: int) -> Plan:
    """The fastest of the plans that a budget and parts of it allow.

    More slots mean fewer steps, but the program makes its slots anew in each run. So the whole
    budget need not be best; halves of it are tried until the time grows.
    """
    best: Plan | None = None
    most = min(budget, everything_bytes(steps, gradients, sizes))
    while most >= smallest_bytes(steps, sizes):
        tree = fastest_tree(steps, gradients, sizes, costs, most)
        plan = estimated(tree.plan(steps, gradients=gradients), sizes, costs)
        if best is not None and _seconds(plan) > _seconds(best):
            break
        best = plan
        most //= 2
    assert best is not None, "the smallest plan fits"
    return best


def _seconds(plan: Plan) -> float:
    assert plan.predicted_seconds is not None, "the costs are known"
    return plan.predicted_seconds


def everything_bytes(steps: int, gradients: bool, sizes: Sizes) -> int:
    """Bytes of a program that stores all states and gradients."""
    slots = steps * (sizes.state + (sizes.gradient if gradients else 0))
    return slots + sizes.fixed(steps) + _table_bytes(steps)


def smallest_bytes(steps: int, sizes: Sizes) -> int:
    """Bytes of the smallest plan: one state slot, no gradient slot."""
    return sizes.state + sizes.fixed(steps) + _table_bytes(steps)


def _table_bytes(steps: int) -> int:
    """Bytes that the tables of a tree may take: about two runs for each step."""
    return 4 * (3 * steps + 4 + 4 * 2 * steps)


def tree_weights(costs: Costs) -> tuple[float, float, float, float]:
    """Seconds of a step, of one in a leaf beside its gradient, of one made again, of a save."""
    kept = costs.update + costs.step + costs.keep
    return costs.advance, kept, costs.rebuild, costs.state_write + costs.run


def _rest(steps: int, costs: Costs) -> float:
    """Seconds that all trees take: VJPs, a gradient of each step, segments."""
    return steps * (costs.inner + costs.vjp + costs.segment + costs.state_read)


def rounded_up(number: int) -> str:
    """A number of bytes as a text with three digits, no less than `number`."""
    for unit, power in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if number >= 2**power:
            return f"{-(-100 * number // 2**power) / 100:g}{unit}"
    return f"{number}B"
