"""A run in reverse mode, lowered: the pieces of its step, and the plan's loop around them."""

from __future__ import annotations

from typing import Any

from metagrad.api.assemble import Finished
from metagrad.api.lowered_pieces import LoweredPieces, pieces_for
from metagrad.api.plan_choice import fused_choice
from metagrad.api.remat_choice import with_plan
from metagrad.api.request import Request
from metagrad.api.traced_run import TracedRun
from metagrad.compiler import pipeline
from metagrad.frontend.captured import Captured
from metagrad.runtime.schedules.plan import Plan


def lower_reverse(
    request: Request,
    traced: TracedRun,
    arguments: tuple,
    schedule: Any,
    captured: Captured | None = None,
) -> Finished:
    """Decides who differentiates what and what is computed again, and chooses the plan.

    Args:
      captured: where the arrays that the functions capture are collected; none so far if None.
    """
    plan_of = lambda pieces: fused_choice(schedule, pieces, arguments)
    return program_of(*with_plan(request, traced, schedule, plan_of, captured))


def program_of(pieces: LoweredPieces, plan: Plan) -> Finished:
    """The program of some pieces with a plan."""
    plan.validate()
    emitted, snapshots = pieces.emitted, pieces.snapshots
    pipeline.write_program(emitted.module, plan, snapshots)

    def bytecode_for(platform: str) -> bytes:
        others = pieces_for(pieces.traced, pieces.ad, platform, Captured(pieces.captured))
        pipeline.write_program(others.emitted.module, plan, others.snapshots)
        return others.snapshots.program

    return Finished(
        pieces.traced.steps,
        plan,
        pieces.decisions,
        snapshots,
        emitted.module,
        emitted.callbacks,
        pieces.captured,
        pieces.platform,
        bytecode_for,
        recomputed=pieces.traced.recomputed,
    )
