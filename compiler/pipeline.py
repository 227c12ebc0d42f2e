"""The passes in their order, from the traced module to plain StableHLO, with the module's text after each stage."""

from __future__ import annotations

from jaxlib.mlir import ir

from metagrad.compiler.dialect import context, functions
from metagrad.compiler.passes import cut, differentiate, verify
from metagrad.compiler.passes import schedule as schedule_pass
from metagrad.compiler.passes.registry import AFTER_SCHEDULE
from metagrad.runtime.schedules.plan import Plan

STAGES = ("traced", "cut", "differentiated", "scheduled", "stablehlo")


def run(module: ir.Module, plan: Plan) -> dict[str, str]:
    """Runs all passes on `module`, in place.

    Args:
      module: the traced module: @step, @outer and the losses.
      plan: the schedule.

    Returns:
      The module's text after each stage, by name.

    Raises:
      EnzymeError: Enzyme could not differentiate a function.
      ValueError: the module is malformed; the message names the op.
    """
    texts = {}
    with module.context, ir.Location.unknown():
        verify.run(module)
        texts["traced"] = context.text(module)
        cut.run(module)
        texts["cut"] = context.text(module)
        differentiate.run(module)
        texts["differentiated"] = context.text(module)
        schedule_pass.run(module, plan)
        texts["scheduled"] = context.text(module)
        for each in AFTER_SCHEDULE:
            each.run(module)
        _make_main(module)
        texts["stablehlo"] = context.text(module)
    return texts


def _make_main(module: ir.Module) -> None:
    """@metagradient becomes the program's @main, and what only the passes needed goes."""
    functions.drop_unreachable(module, ["metagradient"])
    functions.rename(module, {"metagradient": "main"})
    for owner in (module.operation, *module.body.operations):
        for name in list(owner.attributes):
            if name.startswith("metagrad."):
                del owner.attributes[name]
