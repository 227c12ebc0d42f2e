"""`metagrad-opt`: runs passes on a `.mlir` file and prints the result, as `mlir-opt` does.

    metagrad-opt step.mlir --pass=cut,differentiate
    metagrad-opt step.mlir --pass=cut,differentiate,schedule --schedule='LazyKary(k=2)' --steps=8

Every pass reads and writes a module that says all there is to know (dialect/functions.py); only `schedule` needs to be told which schedule for how many steps.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections.abc import Sequence

from jaxlib.mlir import ir

from metagrad.compiler.dialect import context
from metagrad.compiler.enzyme.worker import EnzymeError
from metagrad.compiler.passes import schedule as schedule_pass
from metagrad.compiler.passes import verify
from metagrad.compiler.pipeline import PASSES
from metagrad.runtime import schedules

SPLIT = "// -----"


def parse_schedule(text: str):
    """A schedule from text like "LazyKary(k=4)" or "StoreAll()".

    Raises:
      ValueError: the text is not a call of one of metagrad's schedules with literal arguments that fit it.
    """
    known = {
        name: getattr(schedules, name) for name in ("LazyKary", "Binomial", "Periodic", "StoreAll")
    }
    try:
        call = ast.parse(text, mode="eval").body
        arguments = [ast.literal_eval(value) for value in call.args]
        named = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
        make = known[call.func.id]
    except (SyntaxError, AttributeError, KeyError, ValueError):
        raise ValueError(
            f"{text!r} is no schedule; write one of {', '.join(known)} with its arguments, like LazyKary(k=4)"
        ) from None
    try:
        return make(*arguments, **named)
    except TypeError as error:
        raise ValueError(f"{text!r}: {error}") from None


def transform(module: ir.Module, passes: Sequence[str], schedule: str, steps: int | None) -> None:
    """Verifies the module, then runs the passes on it in place, verifying after each.

    Raises:
      ValueError: unknown pass, malformed module, or a pass that the module does not fit.
    """
    verify.run(module)
    for name in passes:
        if name not in PASSES:
            raise ValueError(f"there is no pass {name!r}; there are {', '.join(PASSES)}")
        if name == schedule_pass.NAME:
            if steps is None:
                raise ValueError("pass 'schedule' needs --steps=T, the number of training steps")
            inner = any(
                op.type.results for op in module.body.operations if op.name.value == "inner"
            )
            schedule_pass.run(module, parse_schedule(schedule).plan(steps, gradients=inner))
        else:
            PASSES[name].run(module)
        verify.run(module)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit code: 0, or 1 with a message on the standard error."""
    parser = argparse.ArgumentParser(
        prog="metagrad-opt",
        description="Runs metagrad's passes on an MLIR file and prints the result.",
    )
    parser.add_argument("file", help="the module, or - for the standard input")
    parser.add_argument(
        "--pass",
        dest="passes",
        default="",
        metavar="NAME[,NAME]",
        help=f"the passes, in order: {', '.join(PASSES)}",
    )
    parser.add_argument(
        "--schedule", default="LazyKary(k=4)", help="for pass 'schedule' (default: %(default)s)"
    )
    parser.add_argument(
        "--steps", type=int, help="for pass 'schedule': the number of training steps"
    )
    parser.add_argument(
        "--split-input-file",
        action="store_true",
        help=f"the file holds several modules, with lines {SPLIT!r} between them",
    )
    given = parser.parse_args(argv)
    passes = [name for name in given.passes.split(",") if name]
    try:
        source = _read(given.file)
    except (OSError, UnicodeDecodeError) as error:
        print(f"metagrad-opt: {error}", file=sys.stderr)
        return 1
    failed = False
    for number, text in enumerate(
        re.split(f"^{SPLIT}$", source, flags=re.MULTILINE) if given.split_input_file else [source]
    ):
        if number:
            print(SPLIT)
        try:
            module = context.parse(text)
            with module.context, ir.Location.unknown():
                transform(module, passes, given.schedule, given.steps)
                print(context.text(module), end="")
        except (ValueError, EnzymeError) as error:
            print(f"metagrad-opt: {error}", file=sys.stderr)
            failed = True
    return int(failed)


def _read(path: str) -> str:
    if path == "-":
        return sys.stdin.read()
    with open(path, encoding="utf-8") as file:
        return file.read()


if __name__ == "__main__":
    sys.exit(main())
