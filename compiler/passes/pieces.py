"""Keeps the functions that every program is made of, now that nothing is left to differentiate.

    @inner     @step_vjp     @prints           and what these call
    @update    @outer_vjp    @outer_prints     @counters

Functions that only differentiation needed go, @step and the losses among them. An update
that was lowered twice leaves the copy that is run: it takes the name @update. Whatever the
schedule, the executor and the number of devices are, the program calls these functions and changes
none of them.
"""

from __future__ import annotations

from jaxlib.mlir import ir

from metagrad.compiler.dialect import functions, metagrad

NAME = "pieces"


def run(module: ir.Module) -> None:
    update = functions.need(module, "update", NAME)
    run_update = None
    if metagrad.RUN in update.attributes:
        run_update = functions.need(module, update.attributes[metagrad.RUN].value, NAME)
    kept = [name for name in functions.PIECES if name != "update"]
    functions.drop_unreachable(module, [*kept, (run_update or update).name.value])
    if run_update is None:
        return
    if functions.find(module, "update") is not None:
        raise ValueError(
            f"pass {NAME!r}: @update is still differentiated; pass 'expand' comes before this one"
        )
    run_update.attributes["sym_name"] = ir.StringAttr.get("update")
