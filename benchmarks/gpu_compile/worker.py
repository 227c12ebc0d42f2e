"""`python -m benchmarks.gpu_compile.worker REQUEST RESULT`: compiles one program, and reads it.

REQUEST is JSON: {"model", "steps", "precision", "program", "target_config"}, and "hlo", a file for
the optimised module's text, if that is wanted. RESULT becomes JSON, with what `read` finds. A
process of its own, since a compilation takes gigabytes and minutes, and may be stopped.
"""

from __future__ import annotations

import collections
import json
import os
import sys
from pathlib import Path
from typing import Any

import jax

from benchmarks.contenders.contender import Problem, tree_bytes
from benchmarks.gpu_compile.ahead_of_time import Ready, compile_for, sharding
from benchmarks.gpu_compile.programs import Program, build, problem
from benchmarks.hlo import control_flow
from benchmarks.hlo.copies import Copy, copies
from benchmarks.hlo.products import libraries, products, stablehlo_products
from benchmarks.hlo.text import Module, parse

NICE = 10

SMALL = 1 / 1000
"""A copy of less than this part of a state is not told."""

_DTYPES = {"float32": "f32", "bfloat16": "bf16", "float64": "f64", "int32": "s32", "bool": "pred"}


def main() -> None:
    from metagrad.runtime import jax_internals

    os.nice(NICE)
    request = json.loads(Path(sys.argv[1]).read_text())
    device = sharding(Path(request["target_config"]).read_text())
    of = problem(request["model"], request["steps"], request["precision"])
    program = build(request["program"], of)
    ready = compile_for(device, program.function, program.arguments)
    text = jax_internals.hlo_text(ready.compiled)
    if request.get("hlo"):
        Path(request["hlo"]).write_text(text)
    found = read(of, program, ready, parse(text))
    Path(sys.argv[2]).write_text(json.dumps(found, default=str))


def read(of: Problem, program: Program, ready: Ready, module: Module) -> dict[str, Any]:
    """What there is to say of a compiled program, as JSON."""
    analysis = ready.compiled.memory_analysis()
    return {
        "seconds": {"lowering": ready.lowering_seconds, "xla": ready.xla_seconds},
        "memory": {
            "arguments": analysis.argument_size_in_bytes,
            "outputs": analysis.output_size_in_bytes,
            "temporaries": analysis.temp_size_in_bytes,
            "aliased": analysis.alias_size_in_bytes,
            "code": analysis.generated_code_size_in_bytes,
        },
        "state_bytes": of.state_bytes,
        "parameter_bytes": tree_bytes(of.state0[0]),
        "details": program.details,
        "products": _products(module, ready.stablehlo),
        "libraries": libraries(module),
        **_control(of, module, program.details.get("advances")),
    }


def _products(module: Module, stablehlo: str) -> dict[str, Any]:
    found = products(module)
    tally = lambda words: {word: words.count(word) for word in sorted(set(words))}
    return {
        "by": tally([each.by for each in found]),
        "types": tally([str(each) for each in found]),
        "in_bf16": sum(each.operands == ("bf16", "bf16") for each in found),
        "widened": sum(each.is_widened for each in found),
        "before_xla": stablehlo_products(stablehlo),
    }


def _control(of: Problem, module: Module, advances: int | None) -> dict[str, Any]:
    """Questions to the host, and copies with how often they are made."""
    questions: dict[str, Any] = {
        "loops_and_conditionals": len(control_flow.unknown_loops(module)),
        "total": None,
    }
    executions: dict[str, int] = {}
    try:
        counts = control_flow.count(module)
    except control_flow.Undecided as reason:
        questions["undecided"] = str(reason)
    else:
        executions = counts.executions
        questions |= {"total": counts.total, "per_step": counts.total / of.steps}
        if advances:
            questions["per_advance"] = counts.total / advances
    state = {(_DTYPES.get(x.dtype.name, x.dtype.name), x.shape) for x in jax.tree.leaves(of.state0)}
    found = copies(module, int(SMALL * of.state_bytes), state)
    return {"questions": questions, "copies": _copies(found, executions, of.state_bytes)}


def _copies(found: list[Copy], executions: dict[str, int], state_bytes: int) -> dict[str, Any]:
    """Each copy with how often it is made, and how many states' worth of bytes are copied.

    A loop within a loop that runs once in the whole run is that of the outer function, and not
    within a segment. Where it is not known how often a loop runs, it counts as one that does.
    """
    listed = [
        {
            "array": str(each.array),
            "bytes": each.array.bytes,
            "depth": each.depth,
            "is_state": each.is_state,
            "times": executions.get(each.computation),
            "copies": count,
        }
        for each, count in collections.Counter(found).items()
    ]
    states = lambda chosen: (
        sum(
            each["bytes"] * each["copies"] * (1 if each["times"] is None else each["times"])
            for each in chosen
        )
        / state_bytes
    )
    of_state = [each for each in listed if each["is_state"]]
    return {
        "states": states(of_state),
        "states_inside_segments": states(
            each for each in of_state if each["depth"] >= 2 and each["times"] not in (0, 1)
        ),
        "other_states_worth": states(each for each in listed if not each["is_state"]),
        "listed": listed,
    }


if __name__ == "__main__":
    main()
