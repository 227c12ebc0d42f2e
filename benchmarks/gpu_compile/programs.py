"""What is compiled: a model's metagradient with a schedule, its step alone, and code by hand."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from benchmarks.compile_time import shapes
from benchmarks.contenders import checkpointed, mixed_mode, mixflow, plain, unrolled
from benchmarks.contenders.contender import Problem, tree_bytes
from benchmarks.contenders.metagrad_schedules import metagradient
from benchmarks.mixflow.tasks import Task, task
from benchmarks.models import convnet, gpt, gpt2, mlp
from benchmarks.models.model import Model

MODELS = {"mlp": mlp.model, "convnet": convnet.model, "gpt": gpt.model, "gpt2": gpt2.model}
PRECISIONS = {"f32": None, "bf16": jnp.bfloat16}
TASKS: dict[str, Callable[..., Model]] = {
    "rates-124M": functools.partial(task, "rates", "124M", 1024, 4),
    "rates-355M": functools.partial(task, "rates", "355M", 1024, 2),
}
"""Those of MixFlow-MG (benchmarks/mixflow), compiled where they are named."""

KNOWN = MODELS | TASKS
STEPS = {
    "mlp": (64,),
    "convnet": (64,),
    "gpt": (64,),
    "gpt2": (16, 1024),
    "rates-124M": (2, 8, 32),
    "rates-355M": (8,),
}

SCHEDULES = {
    ("gpt2", 16): ("Binomial(2)",),
    ("gpt2", 1024): ("Binomial(12)",),
}
"""The schedules of a model and a number of steps; the others have those of `DEFAULT`."""

DEFAULT = ("Binomial(24)", "StoreAll()")

TREE = Path(__file__).parents[2]

OF_TASKS = 'Auto("70GB"), remat="blocks"'
"""The schedule and the option of the tasks' metagradients; the budget leaves a tenth of the device
to arguments and results."""

METAGRAD = "metagrad "
STEP = "step"
BY_HAND = ("plain", "checkpoint", "mixflow")


def names(model: str, steps: int) -> tuple[str, ...]:
    """The programs for a model and a number of steps."""
    if model in TASKS:
        return f"{METAGRAD}{OF_TASKS}", "unrolled", "checkpoint + blocks", "mixflow + blocks"
    schedules = SCHEDULES.get((model, steps), DEFAULT)
    return (*(f"{METAGRAD}{schedule}" for schedule in schedules), STEP, *BY_HAND)


class Program(NamedTuple):
    """A program to compile.

    Attributes:
      function, arguments: as `jax.jit(function).lower(*arguments)` takes them.
      details: what belongs into the record.
    """

    function: Callable
    arguments: tuple
    details: dict[str, Any]


def problem(model: str, steps: int, precision: str) -> Problem:
    """A model and its arguments, as shapes."""
    return shapes(KNOWN[model](narrow=PRECISIONS[precision]), steps)


def build(name: str, of: Problem) -> Program:
    """A program by its name.

    Raises:
      ValueError: nothing has this name.
    """
    if name.startswith(METAGRAD):
        return _by_metagrad(of, name.removeprefix(METAGRAD))
    if name == STEP:
        return _step(of)
    by_hand: dict[str, Callable[[Model], Callable]] = {
        "plain": plain.training,
        "unrolled": lambda model: unrolled.metagradient(model, model.make_step(jax)),
        "checkpoint": lambda model: unrolled.metagradient(
            model, model.make_step(jax), checkpointed.per_step
        ),
        "mixflow": lambda model: unrolled.metagradient(
            model, model.make_step(mixed_mode), mixflow.per_step
        ),
    }
    kind, _, blocks = name.partition(" + ")
    if kind not in by_hand or blocks not in ("", "blocks"):
        raise ValueError(f"no program {name!r}")
    model = of.model.with_blocks(True) if blocks and isinstance(of.model, Task) else of.model
    return Program(by_hand[kind](model), of.arguments, {})


def schedule_of(text: str):
    """The schedule that a text names: "Binomial(8)", 'Auto("15GB")', "StoreAll()"."""
    import metagrad

    match = re.fullmatch(r"(\w+)\(([\w. ,=\"']*)\)", text)
    if match is None or not hasattr(metagrad, match[1]):
        raise ValueError(f"no schedule {text!r}")
    words = [word.strip() for word in match[2].split(",") if word.strip()]
    options = dict(word.split("=") for word in words if "=" in word)
    value = lambda word: {"True": True, "False": False}.get(
        word, int(word) if word.isdecimal() else word.strip("\"'")
    )
    positional = [value(word) for word in words if "=" not in word]
    return getattr(metagrad, match[1])(*positional, **{k: value(v) for k, v in options.items()})


def schedule_and_options(text: str) -> tuple[Any, dict[str, str]]:
    """The same with an option behind it: 'Auto("70GB"), remat="blocks"'."""
    schedule, _, remat = text.partition(", remat=")
    return schedule_of(schedule), {"remat": remat.strip('"')} if remat else {}


def _by_metagrad(of: Problem, text: str) -> Program:
    schedule, options = schedule_and_options(text)
    lowered = metagradient(of, schedule, **options).lower(*of.arguments)
    plan, fused = lowered.plan, lowered.program.fused
    assert plan.estimate is not None, "lowering knows the sizes"
    state, gradient = of.state_bytes, tree_bytes(of.state0[0])
    details = {
        "schedule": plan.schedule,
        "state_slots": plan.state_slots,
        "gradient_slots": plan.gradient_slots,
        "slot_bytes": plan.estimate.slots,
        "state_bytes": state,
        "gradient_bytes": gradient,
        "workspace_without_temporaries": plan.estimate.workspace,
        "bytes_of_steps": plan.estimate.steps,
        "advances": plan.advances,
        "vjps": plan.vjps,
        "explain": lowered.explain().replace(f"{TREE}/", ""),
    }
    return Program(fused.call, fused.inputs, details)


def _step(of: Problem) -> Program:
    """The kernel that reverses a segment of a few steps, as `Auto` compiles it to measure a step.

    What it takes beside its slots is the workspace of a plan: what a measurement on the device
    would find.
    """
    import metagrad
    from metagrad.api.lowered_pieces import pieces_for
    from metagrad.api.plan_choice import fused_sizes
    from metagrad.api.step_costs import PROBE_STEPS
    from metagrad.api.traced_run import trace_run
    from metagrad.compiler import pipeline
    from metagrad.runtime.executors.fused import FusedProgram, Gradients, signature
    from metagrad.runtime.schedules.loop_tables import ANY
    from metagrad.runtime.schedules.segment_tables import Segment

    slots = 2
    request = metagradient(of, metagrad.StoreAll()).request
    few = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((PROBE_STEPS, *x.shape[1:]), x.dtype), of.batches
    )
    traced = trace_run(request, (of.state0, of.meta, few, (of.held_out,)))
    pieces = pieces_for(traced, request.ad, "cuda")
    segment = Segment(PROBE_STEPS, slots, slots, ANY)
    module = pipeline.kernel(pieces.snapshots, "reverse", segment)
    inputs, outputs = signature(module)
    bytecode = pipeline.bytecode_of(module)
    unnamed = Gradients({}, ("",) * len(inputs), ("",) * len(outputs))
    program = FusedProgram(lambda _: bytecode, "cuda", inputs, outputs, (), unnamed)
    details = {
        "sizes": dataclasses.asdict(fused_sizes(pieces)),
        "steps_of_segment": PROBE_STEPS,
        "slots": slots,
        "outer_bytes": tree_bytes(of.held_out),
    }
    return Program(program.call, inputs, details)
