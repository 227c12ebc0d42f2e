"""`mode="auto"`: in which mode a run is differentiated, by what each is predicted to cost.

Forward mode runs a step once and pushes K tangents through it, about (1 + c K) steps with c from 2
to 3, and stores nothing. Reverse mode costs what its plan says, whatever K is. Both are lowered,
and the operations of the two programs are counted; where the costs of the step's parts were
measured (a budget of `Auto`), the counts are scaled by these.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from jaxlib.mlir import ir

from metagrad.api.assemble import Finished
from metagrad.api.forward_lowering import forward_plan, forward_program
from metagrad.api.lowered_pieces import LoweredPieces
from metagrad.api.plan_choice import free_budget, fused_choice, fused_sizes, operations_costs
from metagrad.api.remat_choice import with_plan
from metagrad.api.request import Request
from metagrad.api.reverse_lowering import program_of
from metagrad.api.traced_run import TracedRun
from metagrad.compiler.analysis import operations
from metagrad.frontend.forward.run import NotForward
from metagrad.runtime.byte_sizes import format_bytes
from metagrad.runtime.schedules.auto import Auto, DoesNotFit
from metagrad.runtime.schedules.costs import Costs, predict
from metagrad.runtime.schedules.estimate import format_seconds
from metagrad.runtime.schedules.forward_plan import ForwardPlan
from metagrad.runtime.schedules.measured_costs import OPERATIONS_PER_SECOND
from metagrad.runtime.schedules.plan import Plan

MOST = 64
"""Directions from which on forward mode is not looked at if reverse mode fits: with c at 2 or more
it runs some 130 steps for each step, and no plan of reverse mode that a user waits for does."""


def lower_auto(request: Request, traced: TracedRun, arguments: tuple, schedule: Any) -> Finished:
    """The program of the mode that is chosen; its plan and its notes say why.

    Raises:
      DoesNotFit: neither mode fits the budget.
    """
    forward = forward_plan(traced)
    budget = _budget(schedule, traced)
    plan_of = lambda pieces: fused_choice(schedule, pieces, arguments)
    try:
        pieces, plan = with_plan(request, traced, schedule, plan_of)
    except DoesNotFit as error:
        if forward.bytes > budget or request.ad == "enzyme":
            raise
        why = f"no plan of reverse mode fits {format_bytes(budget)}"
        try:
            return _chosen(forward_program(traced, forward), why)
        except NotForward:
            raise error from None
    why = _why_not_forward(request, forward, budget)
    if not why:
        try:
            return _faster(pieces, plan, forward_program(traced, forward))
        except NotForward as error:
            why = str(error).splitlines()[0]
    return _chosen(program_of(pieces, plan), why)


def _budget(schedule: Any, traced: TracedRun) -> int:
    budget = schedule.budget("memory") if isinstance(schedule, Auto) else None
    return free_budget(traced.shardings) if budget is None else budget


def _why_not_forward(request: Request, forward: ForwardPlan, budget: int) -> str:
    """Why forward mode is not looked at; empty if it is."""
    if request.ad == "enzyme":
        return "forward mode is JAX's, and ad='enzyme' was asked for"
    if forward.directions > MOST:
        return f"forward mode would push {forward.directions:,} tangents through each step"
    if forward.bytes > budget:
        return (
            f"the tangents of forward mode take {format_bytes(forward.bytes)}, and the budget is "
            f"{format_bytes(budget)}"
        )
    return ""


def _faster(pieces: LoweredPieces, plan: Plan, forward: Finished) -> Finished:
    """The program of the mode that is predicted to be faster."""
    counted = operations_costs(pieces, fused_sizes(pieces))
    costs = plan.estimate.costs if plan.estimate is not None else None
    costs = counted if costs is None else costs
    seconds = {
        "reverse": predict(plan, costs),
        "forward": _forward_seconds(forward, counted, costs),
    }
    source = "from measured costs" if costs.measured else "from counts of operations"
    assert isinstance(forward.plan, ForwardPlan)
    why = (
        f"forward mode with K = {forward.plan.directions} is predicted to take "
        f"{format_seconds(seconds['forward'])}, reverse mode {format_seconds(seconds['reverse'])} "
        f"({source})"
    )
    if seconds["forward"] >= seconds["reverse"]:
        return _chosen(program_of(pieces, plan), why)
    timed = dataclasses.replace(forward.plan, seconds=seconds["forward"], costs=source)
    return _chosen(dataclasses.replace(forward, plan=timed), why)


_FUSED = ("stablehlo.broadcast_in_dim", "stablehlo.reshape", "stablehlo.iota")
"""JAX writes a broadcast for every number. In the pieces of reverse mode they have been folded."""


def _forward_seconds(forward: Finished, counted: Costs, costs: Costs) -> float:
    """Seconds of the program, by its operations, in the time that a step's were found to take."""
    with forward.module.context, ir.Location.unknown():
        count = operations.count(forward.module, "main", _FUSED)
    return count / OPERATIONS_PER_SECOND * costs.advance / counted.advance


def _chosen(finished: Finished, why: str) -> Finished:
    """The program, whose plan and notes say why it was chosen."""
    plan = finished.plan
    mode = "forward" if isinstance(plan, ForwardPlan) else "reverse"
    if isinstance(plan, ForwardPlan):
        plan = dataclasses.replace(plan, why=f"by mode='auto': {why}")
    elif plan.estimate is not None:
        estimate = dataclasses.replace(plan.estimate, why=f"reverse, by mode='auto': {why}")
        plan = dataclasses.replace(plan, estimate=estimate)
    return dataclasses.replace(
        finished, plan=plan, notes=(f"mode: {mode}, chosen by mode='auto': {why}",)
    )
