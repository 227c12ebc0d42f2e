"""Whether activations are computed again: the option `remat`, and what "auto" stands for."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, TypeVar

from metagrad.api.explain_blocks import summarize_blocks
from metagrad.api.lowered_pieces import LoweredPieces, lower_pieces
from metagrad.api.plan_choice import free_budget
from metagrad.api.request import Request
from metagrad.api.traced_run import TracedRun
from metagrad.frontend.captured import Captured
from metagrad.runtime.schedules.auto import Auto, DoesNotFit, everything_bytes
from metagrad.runtime.schedules.plan import Plan
from metagrad.runtime.schedules.two_level import TwoLevelPlan

PlanT = TypeVar("PlanT", Plan, TwoLevelPlan)


def with_plan(
    request: Request,
    traced: TracedRun,
    schedule: Any,
    plan_of: Callable[[LoweredPieces], PlanT],
    captured: Captured | None = None,
) -> tuple[LoweredPieces, PlanT]:
    """The pieces of a run, with blocks computed again or without, and the plan for them.

    With remat="auto" and a schedule `Auto`, nothing is computed again as long as the plan then runs
    no step again for want of memory. If it does, or if nothing fits, the plan with blocks computed
    again is made too, and the faster one is taken. With any other schedule blocks are computed
    again if the activations of one step do not fit what is free.

    Args:
      request: what is differentiated, and `remat`.
      traced: the traced functions.
      schedule: the user's. None stands for one that does not compare plans by their time.
      plan_of: chooses a plan.
      captured: where the arrays that the functions capture are collected; none so far if None.

    Raises:
      DoesNotFit: no plan fits the budget.
    """

    def made(recompute: bool) -> tuple[LoweredPieces, PlanT]:
        pieces = lower_pieces(request, traced.look(recompute), captured)
        pieces.captured.store_arrays()
        return pieces, _named(plan_of(pieces), pieces.traced)

    if request.remat != "auto" or request.ad == "enzyme":
        return made(request.remat == "blocks")
    if not isinstance(schedule, Auto):
        return made(traced.temporaries > free_budget(traced.shardings) and saves(traced))
    failure = None
    try:
        pieces, plan = made(False)
        if not _is_short(plan, traced, schedule) or not saves(traced):
            return pieces, plan
    except DoesNotFit as error:
        if not saves(traced):
            raise
        failure = error
    try:
        pieces_of_blocks, plan_of_blocks = made(True)
    except DoesNotFit:
        if failure is not None:
            raise failure from None
        return pieces, plan
    if failure is None and _seconds(plan) <= _seconds(plan_of_blocks):
        return pieces, plan
    return pieces_of_blocks, plan_of_blocks


def saves(traced: TracedRun) -> bool:
    """Whether there are blocks, and computing them again is expected to save memory."""
    blocks = traced.look(True)
    return blocks.has_blocks and blocks.temporaries < traced.temporaries


def _is_short(plan: Plan | TwoLevelPlan, traced: TracedRun, auto: Auto) -> bool:
    """Whether steps are run again because memory is short."""
    if isinstance(plan, TwoLevelPlan):
        # Each segment is run once more in any plan.
        return plan.advances > 2 * plan.outer.steps * plan.segment
    if plan.advances == plan.steps or plan.estimate is None or plan.estimate.costs is None:
        return False
    budget = auto.budget("memory")
    memory = free_budget(traced.shardings) if budget is None else budget
    return everything_bytes(plan.steps, bool(traced.sites), plan.estimate.costs.sizes) > memory


def _seconds(plan: Plan | TwoLevelPlan) -> float:
    return math.inf if plan.predicted_seconds is None else plan.predicted_seconds


def _named(plan: PlanT, traced: TracedRun) -> PlanT:
    """The plan, with what is computed again in its text."""
    words = summarize_blocks(traced.recomputed)
    if not words:
        return plan
    if isinstance(plan, TwoLevelPlan):
        return dataclasses.replace(plan, recomputed=words)
    if plan.estimate is None:
        return plan
    estimate = dataclasses.replace(plan.estimate, recomputed=words)
    return dataclasses.replace(plan, estimate=estimate)
