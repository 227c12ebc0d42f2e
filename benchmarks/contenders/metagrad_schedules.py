"""metagrad, with one schedule each: `@metagrad.compile` around the same step, one XLA program."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from benchmarks.contenders.contender import (
    Built,
    Contender,
    Memory,
    Problem,
    Unavailable,
    tree_bytes,
)


def contender(name: str, make_schedule: Callable, **options: Any) -> Contender:
    """`make_schedule(metagrad)` makes the schedule; metagrad is only imported when it is built.

    `options` are other arguments of `TrainStep.metagradient`.
    """

    def build(problem: Problem) -> Built:
        metagrad = imported()
        mg = metagradient(problem, make_schedule(metagrad), **options)
        start = time.perf_counter()
        lowered = mg.lower(*problem.arguments)
        compiled = lowered.compile()
        seconds = time.perf_counter() - start

        def run(*arguments):
            value, gradient, _ = compiled(*arguments)
            return value, gradient

        plan = lowered.plan
        # One inner gradient has the parameters' shapes, and the parameters are the first part of
        # every model's state.
        slots = plan.slot_bytes(problem.state_bytes, tree_bytes(problem.state0[0]))
        details = {
            "schedule": plan.schedule,
            "state_slots": plan.state_slots,
            "gradient_slots": plan.gradient_slots,
            "slot_bytes": slots,
            "advances": plan.advances,
            "updates": plan.updates,
            "gradients_on_the_spot": plan.gradients_on_the_spot,
            "explain": lowered.explain(),
        }
        return Built(
            run, Memory(compiled.memory_analysis().temp_size_in_bytes, "xla"), seconds, details
        )

    return Contender(f"metagrad {name}", build)


def metagradient(problem: Problem, schedule, **options: Any):
    """The metagradient of a problem; `options` are those of `TrainStep.metagradient`."""
    metagrad = imported()
    step = metagrad.compile(problem.model.make_step(metagrad))
    return step.metagradient(
        problem.model.outer, wrt=problem.model.wrt, schedule=schedule, **options
    )


def imported():
    """The package, or `Unavailable`."""
    try:
        import metagrad
    except ImportError as error:
        raise Unavailable(f"metagrad cannot be imported: {error}") from None
    return metagrad
