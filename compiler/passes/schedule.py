"""The rematerialisation pass: writes @main, the whole run and its reversal as one program.

It is the loop of schedule_loop.py around calls of the step's pieces, with a plan's tables as
constants. After the training run stands @outer_vjp.

Results of @main: value, outer aux; the gradient (float leaves of what `metagrad.wrt` names: state,
then meta, then batches); the final state; the step's aux, stacked over steps.
"""

from __future__ import annotations

from jaxlib.mlir import ir

from metagrad.compiler.dialect import captured, functions, metagrad
from metagrad.compiler.dialect.loops import Carry, empty, index, table, zeros
from metagrad.compiler.passes.schedule_loop import Pieces, PlanLoop, StepCalls
from metagrad.runtime.schedules.loop_tables import loop_tables
from metagrad.runtime.schedules.plan import Plan

NAME = "schedule"


def run(module: ir.Module, plan: Plan) -> None:
    pieces = Pieces(module, NAME)
    inputs = [
        *pieces.types("state"),
        *pieces.types("meta"),
        *pieces.stacked(plan.steps),
        *pieces.outer_argument_types,
    ]
    build = lambda operands: _build(pieces, plan, operands)
    functions.add_function(module, "main", inputs, build, visibility="public")
    finish(module)


def finish(module: ir.Module) -> None:
    """Makes a module with a program @main ready for XLA: what only the passes needed goes."""
    captured.become_arguments(module, "main")
    functions.drop_unreachable(module, ["main"])
    # XLA's parser does not know the dialect.
    for owner in (module.operation, *module.body.operations):
        metagrad.strip(owner)


def _build(pieces: Pieces, plan: Plan, operands: list[ir.Value]) -> list[ir.Value]:
    n = pieces.layout
    tables = loop_tables(plan, gradients=pieces.has_inner)
    values = {name: table(column) for name, column in tables.columns.items()}
    state0, outer_arguments = operands[: n.state], operands[n.step :]
    meta, batches = operands[n.state : n.state + n.meta], operands[n.state + n.meta : n.step]
    pieces.state.begin(state0, meta, plan.steps)
    stored0 = pieces.state.stored_of(state0)
    steps = index(plan.steps)

    def at_the_end(_: Carry, operands: Carry) -> Carry:
        state = pieces.state.at(steps, operands["state"])
        if pieces.outer_prints is not None:
            functions.call(pieces.outer_prints, [*state, *outer_arguments])
        results = functions.call(pieces.outer_vjp, [*state, *outer_arguments])
        split = len(pieces.outer_result_types)
        return {"state_bar": results[split:], "outer": results[:split], "final": operands["state"]}

    loop = PlanLoop(
        pieces,
        StepCalls(pieces, meta, batches),
        values,
        index(len(tables.walks["walk_load"])),
        steps,
        tables.features,
        plan.state_slots,
        plan.gradient_slots,
        tables.names_behind(plan),
    )
    carry = loop.run(
        stored0,
        pieces.cotangents.begin(operands),
        [empty(plan.steps, ty) for ty in pieces.aux_types],
        at_the_end,
        {"outer": [zeros(ty) for ty in pieces.outer_result_types], "final": stored0},
    )
    final = pieces.state.at(steps, carry["final"])
    gradient = pieces.cotangents.gradient(operands, carry)
    return [*carry["outer"], *gradient, *final, *carry["aux"]]
