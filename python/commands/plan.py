"""`metagrad plan`: a plan from sizes alone, and how the schedules compare."""

from __future__ import annotations

import argparse
import dataclasses
import math
from typing import TYPE_CHECKING, Any

from metagrad.commands import plan_table
from metagrad.commands.arguments import (
    budget,
    byte_count,
    byte_rate,
    complain,
    count,
    not_negative,
    positive,
    subcommand,
)

if TYPE_CHECKING:
    from metagrad.runtime.schedules.auto import Auto
    from metagrad.runtime.schedules.costs import Costs
    from metagrad.runtime.schedules.plan import Plan
    from metagrad.runtime.schedules.two_level import TwoLevelPlan

RATES = ("slot", "host", "disk")

UPDATE, VJP = 0.12, 2.36
"""Of a plain step: the optimiser's update, and the VJP of a step whose gradient is kept. Those of
the plan in docs/schedules.md, measured: gradient 10 ms, update 1.3 ms, VJP 26.7 ms."""

_ABOUT = """
Says how a training run of T steps can be reversed in the memory that there is: which states are
held, how many steps are run again, and how long it takes. It needs sizes only; no model, no JAX.

A slot holds a *state*: what a step changes, so parameters and optimiser state (with Adam three
times the size of the parameters), without data and frozen weights. A *gradient* slot holds the
step's inner gradient, which is the size of the parameters. Times are in plain trainings: 1.0 is
training without any gradient of it, and a metagradient takes 1 + VJP at the least, 3.36 by default.

Examples:
  3,125 Adam steps of a model with 160 million float32 parameters, on an 80 GB GPU:
    metagrad plan --steps 3125 --state 1.8GiB --memory 72GiB

  The same, with states in the host's memory as well; batches and plan are then streamed:
    metagrad plan --steps 3125 --state 1.8GiB --memory 40GiB --host 400GiB

  With seconds, since a step takes 0.31 s and the bus moves 20 GiB/s:
    metagrad plan --steps 3125 --state 1.8GiB --memory 40GiB --host 400GiB \\
        --step-seconds 0.31 --host-rate 20GiB

  What a step holds beside its slots (activations) is workspace. For a program that is there:
    mg.lower(state0, meta, batches).compile().memory_analysis().temp_size_in_bytes

  In Python: metagrad.Auto(memory="40GiB", host="400GiB"), or the schedule of a line of the table.
"""


def add(commands: Any) -> None:
    parser = subcommand(
        commands,
        "plan",
        run,
        help="say from sizes alone how a run can be reversed, and what that takes",
        about=_ABOUT,
    )
    _add_sizes(parser)
    _add_costs(parser)


MOST_STEPS = 2_000_000
"""The plans of several schedules are in memory at the same time: 1.5 kB for a step."""


def _add_sizes(parser: argparse.ArgumentParser) -> None:
    sizes = parser.add_argument_group("the run", 'sizes are written as "1.8GiB" or "2GB"')
    sizes.add_argument(
        "--steps",
        metavar="T",
        type=count(1, MOST_STEPS),
        required=True,
        help=f"training steps of the run, at most {MOST_STEPS:,}",
    )
    for name, required, text in (
        ("state", True, "what a slot holds of one state"),
        ("gradient", False, "the inner gradient of a step; 0: none is kept (default: state / 3)"),
        ("workspace", False, "arguments, results and temporaries of a step (default: 0)"),
        ("batch", False, "one batch (default: 0)"),
    ):
        sizes.add_argument(
            f"--{name}", metavar="BYTES", type=byte_count, required=required, help=text
        )
    budgets = parser.add_argument_group("the budgets")
    budgets.add_argument(
        "--memory", metavar="BYTES", type=budget, required=True, help="on the device, in all"
    )
    budgets.add_argument(
        "--host", metavar="BYTES", type=budget, help="host memory for states of a streamed run"
    )
    budgets.add_argument(
        "--disk", metavar="BYTES", type=budget, help="disk for states of a streamed run"
    )


def _add_costs(parser: argparse.ArgumentParser) -> None:
    costs = parser.add_argument_group("the costs")
    costs.add_argument(
        "--step-seconds", metavar="S", type=positive, help="of one plain training step"
    )
    costs.add_argument(
        "--update",
        metavar="X",
        type=not_negative,
        default=UPDATE,
        help="the optimiser's update, in plain steps, below 1 (default: %(default)s)",
    )
    costs.add_argument(
        "--vjp",
        metavar="X",
        type=positive,
        default=VJP,
        help="the VJP of a step whose gradient is kept, in plain steps (default: %(default)s)",
    )
    for tier, what in (
        ("slot", "within the device's memory"),
        ("host", "between device and host"),
        ("disk", "between device and disk"),
    ):
        costs.add_argument(
            f"--{tier}-rate",
            metavar="BYTES",
            type=byte_rate,
            help=f"bytes per second {what}; needs --step-seconds (default: free)",
        )


def run(arguments: argparse.Namespace) -> int:
    from metagrad.runtime.schedules.auto import Auto
    from metagrad.runtime.schedules.comparison import compare

    _check(arguments)
    costs = _costs(arguments)
    auto = Auto(arguments.memory, arguments.host, arguments.disk)
    plans, refusals = _automatic(auto, arguments.steps, costs)
    best = min(plans.values(), key=plan_table.seconds, default=None)
    if best is not None:
        print(best if arguments.step_seconds else _without_time(best), end="\n\n")
    memory = auto.budget("memory")
    assert memory is not None, "the argument is required"
    rows = [plan_table.of_auto(name, plan) for name, plan in plans.items()]
    rows += [plan_table.of_kind(row) for row in compare(arguments.steps, costs, memory)]
    training = arguments.steps * costs.advance
    print(plan_table.table(rows, training, in_seconds=arguments.step_seconds is not None))
    print(_notes(arguments))
    if best is None:
        return complain(arguments, refusals[0])
    for refusal in refusals:
        print(f"Not possible: {refusal}")
    return 0


def _automatic(
    auto: Auto, steps: int, costs: Costs
) -> tuple[dict[str, Plan | TwoLevelPlan], list[ValueError]]:
    """The plans of `Auto`, fused and streamed, and why one of them does not fit."""
    from metagrad.runtime.schedules.auto_streamed import streamed_plan

    gradients, sizes = costs.sizes.gradient > 0, costs.sizes
    plans: dict[str, Plan | TwoLevelPlan] = {}
    refusals = []
    try:
        plans["Auto, one program"] = auto.plan(
            steps, gradients=gradients, sizes=sizes, measure=lambda: costs
        )
    except ValueError as error:
        refusals.append(error)
    if auto.host is None and auto.disk is None:
        return plans, refusals
    # A streamed run has the batches of some steps on the device, and not all of them.
    costs = dataclasses.replace(costs, sizes=dataclasses.replace(sizes, step=0))
    try:
        plans["Auto, streamed"] = streamed_plan(
            auto, steps, gradients=gradients, costs=costs, device_free=0, host_free=0
        )
    except ValueError as error:
        refusals.append(error)
    return plans, refusals


def _without_time(plan: Any) -> Any:
    """A plan whose text says nothing of seconds, which are not known."""
    from metagrad.runtime.schedules.plan import Plan

    if isinstance(plan, Plan) and plan.estimate is not None:
        return dataclasses.replace(plan, estimate=dataclasses.replace(plan.estimate, seconds=None))
    return dataclasses.replace(plan, estimate=None)


def _check(arguments: argparse.Namespace) -> None:
    """Refuses arguments that do not go together."""
    rates = [name for name in RATES if getattr(arguments, f"{name}_rate") is not None]
    if rates and arguments.step_seconds is None:
        arguments.parser.error(
            f"argument --{rates[0]}-rate: moves are weighed against steps; give --step-seconds too"
        )
    if arguments.update >= 1:
        arguments.parser.error(
            f"argument --update: it is a part of a step, below 1, not {arguments.update}"
        )


def _costs(arguments: argparse.Namespace) -> Costs:
    from metagrad.runtime.schedules.costs import Costs, Sizes

    gradient = arguments.state // 3 if arguments.gradient is None else arguments.gradient
    batch = arguments.batch or 0
    sizes = Sizes(arguments.state, gradient, arguments.workspace or 0, batch, batch)
    step = arguments.step_seconds or 1.0
    rates: dict[str, Any] = {
        f"{name}_{way}": getattr(arguments, f"{name}_rate") or math.inf
        for name in RATES
        for way in ("write", "read")
    }
    return Costs(
        sizes,
        inner=step * (1 - arguments.update),
        update=step * arguments.update,
        vjp=step * arguments.vjp,
        **rates,
    )


def _notes(arguments: argparse.Namespace) -> str:
    """What the times rest on."""
    rates = [name for name in RATES if getattr(arguments, f"{name}_rate") is not None]
    lines = [
        f"A plain step is 1: its update takes {arguments.update:g}, the VJP of a step whose "
        f"gradient is kept {arguments.vjp:g}.",
        f"Moves of states are counted for: {', '.join(rates)}."
        if rates
        else "Moves of states are taken to be free; --host-rate and its relatives count them.",
    ]
    if not arguments.workspace:
        lines.append("Activations are not in these bytes; --workspace adds them.")
    return "\n".join(lines)
