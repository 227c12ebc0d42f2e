"""Measures the costs of a step's parts on this machine.

A *probe* is a compiled program that runs any plan of a few steps in a few slots. It runs some small
plans, in turns, and the lower quartile of the times of each is taken: other work on the machine
makes some runs slower, and none faster. A plan's time is the sum of its counts times
the seconds of one each:

    inner     gradients computed: advances and gradients on the spot
    update    updates: advances, and steps made again from kept gradients
    vjp       VJPs
    gradient  gradients written to slots and read from them
    state     states written to slots and read from them
    call      1: what a run of the program takes at the least

The last one is split: into what making the slots takes, from a second program with fewer slots, and
the rest.

The seconds are the non-negative least squares solution, each plan weighted by its time.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterable, Sequence

import jax
import numpy as np
from scipy.optimize import nnls

from metagrad.runtime.schedules.binomial import Binomial
from metagrad.runtime.schedules.costs import Costs, Sizes
from metagrad.runtime.schedules.lazy_kary import LazyKary
from metagrad.runtime.schedules.periodic import Periodic
from metagrad.runtime.schedules.plan import Plan
from metagrad.runtime.schedules.store_all import StoreAll

ROUNDS = 12
"""How often each plan is run, if there is time."""

SECONDS = 10.0
"""Once every plan was run three times, no round begins after this time."""

_LEAST_ROUNDS = 3
_UNITS = ("inner", "update", "vjp", "gradient", "state", "call")


@dataclasses.dataclass(frozen=True)
class Probe:
    """A compiled program that runs any plan of a few steps.

    Attributes:
      run: runs a plan, and returns when the device is done.
      steps: the most steps of a plan, at least 2. 8 tell the costs apart twice as well as 4.
      state_slots, gradient_slots: the most slots of each kind; 2 of them at least, or no gradient
        slot if the step has no inner gradients.
      gradients: whether the step has inner gradients that can be kept.
      slot_bytes: bytes of its slots, which each run makes anew.
      run_small: runs a plan of one step on a program with fewer slots; None if there is none.
      small_slot_bytes: bytes of the slots of that.
      workspace: bytes that the program takes beside its slots and what grows with its steps.
    """

    run: Callable[[Plan], None]
    steps: int
    state_slots: int
    gradient_slots: int
    gradients: bool
    slot_bytes: int = 0
    run_small: Callable[[Plan], None] | None = None
    small_slot_bytes: int = 0
    workspace: int = 0


def probe_plans(probe: Probe) -> list[Plan]:
    """Small plans that tell the costs apart."""
    T = probe.steps
    schedules: Iterable[tuple[object, int]] = [
        (StoreAll(), 1),
        (StoreAll(False), 1),
        (StoreAll(), T),
        (StoreAll(False), T),
        (Binomial(1, False), T),
        (Binomial(2, False), T),
        (Binomial(1, True, T), T),
        (Binomial(1, True, 2), 2),
        (Binomial(1, False), 2),
        (StoreAll(), 2),
        (Binomial(2), T),
        (Binomial(3), T),
        (LazyKary(2), T),
        (Periodic(2), T),
        (Binomial(1), T),
    ]
    plans: list[Plan] = []
    for schedule, steps in schedules:
        plan = schedule.plan(steps, gradients=probe.gradients)  # type: ignore[attr-defined]
        fits = plan.state_slots <= probe.state_slots and plan.gradient_slots <= probe.gradient_slots
        if fits and plan not in plans:
            plans.append(plan)
    return plans


def measure(probe: Probe, sizes: Sizes, *, clock: Callable[[], float] = time.perf_counter) -> Costs:
    """The costs of a step's parts, from runs of a probe.

    Args:
      probe: the program.
      sizes: bytes.
      clock: gives seconds.
    """
    plans = probe_plans(probe)
    runs = [functools.partial(probe.run, plan) for plan in plans]
    if probe.run_small is None:
        return solve(plans, typical_seconds(runs, clock), sizes)
    shortest = min(range(len(plans)), key=lambda i: plans[i].steps)
    run_small = functools.partial(probe.run_small, plans[shortest])
    *seconds, small = typical_seconds([*runs, run_small], clock)
    costs = solve(plans, seconds, sizes)
    making = (seconds[shortest] - small) / (probe.slot_bytes - probe.small_slot_bytes)
    making = min(max(0.0, making), costs.call / probe.slot_bytes)
    return dataclasses.replace(
        costs,
        call=costs.call - making * probe.slot_bytes,
        slot_make=1 / making if making > 0 else math.inf,
    )


def typical_seconds(runs: Sequence[Callable[[], None]], clock: Callable[[], float]) -> list[float]:
    """The lower quartile of the times of each of some runs.

    They are done in turns, so that all see the same disturbances.
    """
    for run in runs:
        run()  # the first run of a program may take longer
    times: list[list[float]] = [[] for _ in runs]
    start = clock()
    for turn in itertools.count():
        if turn == ROUNDS or (turn >= _LEAST_ROUNDS and clock() - start > SECONDS):
            break
        for run, of_run in zip(runs, times):
            before = clock()
            run()
            of_run.append(clock() - before)
    return [statistics.quantiles(of_run, n=4)[0] for of_run in times]


def solve(plans: list[Plan], seconds: list[float], sizes: Sizes) -> Costs:
    """The costs that explain the times of plans best.

    Args:
      plans: as of `probe_plans`.
      seconds: the time of each.
      sizes: bytes.
    """
    rows = np.array([_row(plan) for plan in plans], float)
    weights = 1 / np.maximum(np.array(seconds), 1e-9)
    solution, _ = nnls(rows * weights[:, None], np.array(seconds) * weights)
    unit = dict(zip(_UNITS, solution.tolist()))
    # A state and a gradient move at one rate. Where one of them was not told apart from the rest,
    # the other's is taken.
    rates = [
        size / each
        for size, each in ((sizes.state, unit["state"]), (sizes.gradient, unit["gradient"]))
        if each > 0 and size > 0
    ]
    rate = min(rates, default=math.inf)
    return Costs(
        sizes,
        inner=unit["inner"],
        update=unit["update"],
        vjp=unit["vjp"],
        slot_write=rate,
        slot_read=rate,
        call=unit["call"],
        measured=True,
    )


def _row(plan: Plan) -> list[float]:
    gradient_reads = plan.updates + plan.vjps - plan.gradients_on_the_spot
    return [
        plan.advances + plan.gradients_on_the_spot,
        plan.advances + plan.updates,
        plan.vjps,
        plan.keeps + gradient_reads,
        plan.saves + plan.loads,
        1,
    ]


def workspace(analysis, plan_slots: int, steps: int, sizes: Sizes) -> int:
    """Bytes of a program beside its slots and what grows with its steps.

    Args:
      analysis: XLA's `memory_analysis()` of the program.
      plan_slots: bytes of the slots that the program was made with.
      steps: the steps that it was made for.
      sizes: bytes; `workspace` is not read.
    """
    whole = (
        analysis.argument_size_in_bytes
        + analysis.output_size_in_bytes
        + analysis.temp_size_in_bytes
        - analysis.alias_size_in_bytes
    )
    return max(0, whole - plan_slots - steps * sizes.step)


def with_tier(costs: Costs, name: str, write_seconds: float, read_seconds: float) -> Costs:
    """Costs that know what a tier takes.

    Args:
      costs: of the step.
      name: "host" or "disk".
      write_seconds, read_seconds: s, of one state.
    """
    rates = {
        f"{name}_write": _rate(costs.sizes.state, write_seconds),
        f"{name}_read": _rate(costs.sizes.state, read_seconds),
    }
    return dataclasses.replace(costs, **rates)  # type: ignore[arg-type]


def _rate(size: int, seconds: float) -> float:
    return size / seconds if size > 0 and seconds > 0 else math.inf


def tier_seconds(
    tier, arrays: list, *, times: int = 3, clock: Callable[[], float] = time.perf_counter
) -> tuple[float, float]:
    """Median seconds of a write of a state to a tier, and of a read.

    Args:
      tier: a `runtime.tiers.tier.Tier` that nothing else uses. It is given two slots.
      arrays: a state, on the device.
      times: how often each is done.
      clock: gives seconds.
    """
    tier.allocate(2, [jax.ShapeDtypeStruct(array.shape, array.dtype) for array in arrays])
    writes, reads = [], []
    for turn in range(times + 1):
        before = clock()
        tier.write(turn % 2, arrays)
        tier.flush()
        written = clock()
        jax.block_until_ready(tier.read(turn % 2))
        reads.append(clock() - written)
        writes.append(written - before)
    tier.free(0)
    tier.free(1)
    return statistics.median(writes[1:]), statistics.median(reads[1:])


OPERATIONS_PER_SECOND = 5e10
"""Of one core, where nothing can be measured."""


def estimated_costs(
    sizes: Sizes,
    *,
    inner_operations: float,
    update_operations: float,
    vjp_operations: float,
    operations_per_second: float = OPERATIONS_PER_SECOND,
    bytes_per_second: float = 5e9,
) -> Costs:
    """Costs from counts of operations, for when nothing can be measured. They say so.

    Args:
      sizes: bytes.
      inner_operations, update_operations, vjp_operations: floating-point operations of each.
      operations_per_second, bytes_per_second: of the machine; one core's if not given.
    """
    return Costs(
        sizes,
        inner=inner_operations / operations_per_second,
        update=update_operations / operations_per_second,
        vjp=vjp_operations / operations_per_second,
        slot_write=bytes_per_second,
        slot_read=bytes_per_second,
        slot_make=bytes_per_second / 3,
        measured=False,
    )
