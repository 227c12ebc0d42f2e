"""`metagrad ir`: what the compiler makes of a step in the user's own file."""

from __future__ import annotations

import argparse
import traceback
from pathlib import Path
from typing import Any

from metagrad.commands import user_files
from metagrad.commands.arguments import complain, subcommand
from metagrad.commands.user_files import Unusable

EXAMPLE, OUTER, STAGE = "example", "outer", "differentiated"

_ABOUT = f"""
Lowers the metagradient of a training step in a file of yours and prints the program after a stage.
Nothing is trained: shapes are enough.

The file says with which arguments, by a function `{EXAMPLE}` that returns
(state0, meta, batches, *outer_args) as a call of the metagradient takes them; arrays or
jax.ShapeDtypeStruct, so that no data is needed:

    @metagrad.compile
    def train_step(w, rate, batch): ...

    def {OUTER}(w, x): ...

    def {EXAMPLE}():
        f32 = lambda *shape: jax.ShapeDtypeStruct(shape, jax.numpy.float32)
        return f32(3), f32(), f32(80, 8, 3), f32(32, 3)      # 80 steps, batches of 8

The stages, in order:
    traced           the step as JAX traced it; each metagrad.grad is one op that names its loss
    cut              the gradients are cut out: the optimiser's update and the losses are functions
    differentiated   @step_vjp and @outer_vjp, in terms of Enzyme's ops
    pieces           the same without Enzyme's ops: all that runs is made of these functions
    scheduled        the program: a loop around the pieces that reads the plan's tables
    hlo              what XLA makes of it (this compiles)
For a step whose batches are a metagrad.Stream, the programs of the streamed run come behind
`pieces`: advance, outer_vjp, reverse.

Examples:
  metagrad ir step.py:train_step                      uses step.py:{OUTER} and step.py:{EXAMPLE}
  metagrad ir step.py:train_step --explain            who differentiates what, and why
  metagrad ir step.py:train_step --stage pieces -o pieces.mlir
  metagrad ir step.py:train_step --stage scheduled --schedule 'Binomial(24)' | less
  metagrad ir project.train:step --outer project.eval:loss --arguments project.train:shapes
  metagrad ir step.py:mg                              a metagradient that the file has made

  The text is MLIR, for metagrad-opt:
    metagrad ir step.py:train_step --stage cut | metagrad-opt - --pass=differentiate
"""


def add(commands: Any) -> None:
    parser = subcommand(
        commands,
        "ir",
        run,
        help="print the program of a step in a file, at any stage",
        about=_ABOUT,
    )
    parser.add_argument(
        "step",
        metavar="FILE:STEP",
        help="a step, decorated by metagrad.compile or plain; or a metagradient",
    )
    parser.add_argument(
        "--outer",
        metavar="FILE:NAME",
        help=f"the outer function; a name alone is one in the file of the step (default: {OUTER})",
    )
    parser.add_argument(
        "--arguments",
        metavar="FILE:NAME",
        help="(state0, meta, batches, *outer_args), or a function without arguments that returns "
        f"them (default: {EXAMPLE}, in the file of the step)",
    )
    parser.add_argument(
        "--stage", metavar="NAME", default=None, help=f"which one is printed (default: {STAGE})"
    )
    parser.add_argument(
        "--explain",
        action="store_true",
        help="print who differentiates which function, what a slot holds, and what cuts the "
        "derivative; with --stage as a comment above the program",
    )
    parser.add_argument(
        "--wrt", metavar="NAMES", help='"meta" (the default), "state", "batches", or "meta,state"'
    )
    parser.add_argument(
        "--schedule",
        metavar="CALL",
        help="such as 'LazyKary(k=4)' or 'Auto(memory=\"1GiB\")' (default: Auto(), the fastest "
        "that fits)",
    )
    parser.add_argument("-o", "--out", metavar="FILE", type=Path, help="write there")
    parser.add_argument(
        "--traceback", action="store_true", help="of an error, show all that Python shows"
    )


def run(arguments: argparse.Namespace) -> int:
    try:
        text = _text(arguments)
    except Unusable as error:
        if arguments.traceback:
            traceback.print_exception(error)
        return complain(arguments, error)
    if arguments.out is None:
        print(text)
        return 0
    try:
        arguments.out.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        return complain(arguments, f"--out: {error}")
    return 0


def _text(arguments: argparse.Namespace) -> str:
    """What is printed."""
    place, name = user_files.split(arguments.step)
    metagradient = _metagradient(arguments, place, name)
    values = _example(arguments, place)
    lowered = user_files.calling(
        f"lowering {arguments.step}", lambda: metagradient.lower(*values), of=place
    )
    stage = arguments.stage or (None if arguments.explain else STAGE)
    if stage not in (None, *lowered.stages):
        raise Unusable(f"there is no stage {stage!r}; there are {', '.join(lowered.stages)}")
    explanation = lowered.explain().rstrip() if arguments.explain else ""
    if stage is None:
        return explanation
    program = user_files.calling(f"the stage {stage!r}", lambda: lowered.ir(stage), of=place)
    comment = "".join(f"// {line}".rstrip() + "\n" for line in explanation.splitlines())
    return comment + program.rstrip()


def _metagradient(arguments: argparse.Namespace, place: str, name: str) -> Any:
    """The metagradient that is lowered."""
    import metagrad

    step = user_files.load(place, name)
    options = {f"--{option}": getattr(arguments, option) for option in ("outer", "wrt", "schedule")}
    if isinstance(step, metagrad.Metagradient):
        if chosen := [option for option, value in options.items() if value is not None]:
            raise Unusable(
                f"{arguments.step} is a metagradient, which has its outer function, wrt and "
                f"schedule; leave out {', '.join(chosen)}, or name the step"
            )
        return step
    if not callable(step):
        raise Unusable(
            f"{arguments.step} is {step!r}; name a training step, step(state, meta, batch) -> state"
        )
    if not isinstance(step, metagrad.TrainStep):
        step = metagrad.compile(step)
    outer = _outer(arguments, place)
    wrt = tuple((arguments.wrt or "meta").split(","))
    return user_files.calling(
        "the metagradient",
        lambda: step.metagradient(
            outer, wrt[0] if len(wrt) == 1 else wrt, schedule=_schedule(arguments), progress=None
        ),
        of=place,
    )


def _outer(arguments: argparse.Namespace, place: str) -> Any:
    if arguments.outer is None and not hasattr(user_files.module_of(place), OUTER):
        raise Unusable(
            f"{place} has no function {OUTER!r}; name the outer function, which makes a scalar of "
            f"the final state: --outer {place}:NAME"
        )
    return user_files.load(*user_files.split(arguments.outer or OUTER, place))


def _schedule(arguments: argparse.Namespace) -> Any:
    if arguments.schedule is None:
        return None
    from metagrad.compiler.pass_options import SCHEDULES, parse_schedule

    try:
        return parse_schedule(arguments.schedule, ("Auto", *SCHEDULES))
    except ValueError as error:
        raise Unusable(f"--schedule: {error}") from None


def _example(arguments: argparse.Namespace, place: str) -> tuple:
    """(state0, meta, batches, *outer_args), as the user's file has them."""
    if arguments.arguments is None and not hasattr(user_files.module_of(place), EXAMPLE):
        raise Unusable(
            f"{place} has no function {EXAMPLE!r}, which says for which arguments the step is "
            "lowered. Let it return (state0, meta, batches, *outer_args), arrays or "
            f"jax.ShapeDtypeStruct, or name one that does: --arguments {place}:NAME"
        )
    where = user_files.split(arguments.arguments or EXAMPLE, place)
    value = user_files.load(*where)
    name = ":".join(where)
    if callable(value):
        value = user_files.calling(f"calling {name}", value, of=where[0])
    if not isinstance(value, (tuple, list)) or len(value) < 3:
        what = f"{len(value)} values" if isinstance(value, (tuple, list)) else repr(value)
        raise Unusable(f"{name} gives {what}, where (state0, meta, batches, *outer_args) is needed")
    return tuple(value)
