"""What `explain()` says of a lowered metagradient, whichever executor it is for."""

from __future__ import annotations

from metagrad.api.explain_blocks import explain_blocks
from metagrad.api.own_settings import lowered_with
from metagrad.api.program import Program
from metagrad.api.streamed_program import StreamedProgram
from metagrad.frontend.capabilities.measured_with import unmeasured
from metagrad.runtime.displayed import Text


def explanation(program: Program | StreamedProgram) -> Text:
    """See `Lowered.explain`."""
    lines = [
        *program.notes,
        *map(str, program.decisions),
        *program.slots,
        *explain_blocks(program.recomputed),
    ]
    if program.queries is not None:
        lines.append(
            f"queries: {program.queries}, in one run. What does not depend on the query is "
            "computed once in each step's VJP."
        )
    with lowered_with(program.x64):
        places = program.cuts()
    if places:
        wrt = " and ".join(program.signature.wrt)
        lines.append(f"On the way from {wrt} to the outer value, where JAX cuts or replaces")
        lines.append("the derivative (metagrad.check compares it with finite differences):")
        lines += [f"    {place}" for place in places]
    if (warning := unmeasured()) is not None:
        lines.append(warning)
    return Text("\n".join(lines))
