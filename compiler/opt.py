"""`metagrad-opt`: runs passes on a `.mlir` file and prints the result, as `mlir-opt` does.

    metagrad-opt step.mlir --pass=cut,differentiate
    metagrad-opt step.mlir --pass='cut,differentiate,schedule{schedule=LazyKary(k=2) steps=8}'
    metagrad-opt step.mlir --pass=cut,differentiate --print-after=cut --timing

Every pass reads and writes a module that says all there is to know (dialect/metagrad.py); only
`schedule` needs to be told which schedule for how many steps.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Sequence

from jaxlib.mlir import ir

from metagrad.compiler.dialect import context
from metagrad.compiler.enzyme.worker import EnzymeError
from metagrad.compiler.pass_options import PassCall, parse_passes
from metagrad.compiler.passes import verify
from metagrad.compiler.pipeline import PASSES

SPLIT = "// -----"


def transform(
    module: ir.Module,
    calls: Sequence[PassCall],
    *,
    verify_each: bool = True,
    print_after: Sequence[str] = (),
) -> list[tuple[str, float]]:
    """Verifies the module, then runs the passes on it in place.

    Args:
      verify_each: verify after every pass, and not only at the end.
      print_after: passes after which the module is printed on the standard error; "all" is all of
        them.

    Returns:
      The seconds that each pass took, its name first. Verification and printing are not counted.

    Raises:
      ValueError: a malformed module, or a pass that the module does not fit.
    """
    seconds = []
    verify.run(module)
    for number, call in enumerate(calls, 1):
        start = time.perf_counter()
        call.run(module)
        seconds.append((call.name, time.perf_counter() - start))
        if call.name in print_after or "all" in print_after:
            print(f"// after {call.name}\n{context.text(module)}", end="", file=sys.stderr)
        if verify_each or number == len(calls):
            verify.run(module)
    return seconds


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit code: 0, or 1 with a message on the standard error."""
    arguments = _parser().parse_args(argv)
    defaults = {"schedule": arguments.schedule}
    if arguments.steps is not None:
        defaults["steps"] = str(arguments.steps)
    try:
        calls = parse_passes(arguments.passes, {"schedule": defaults})
        print_after = _pass_names(arguments.print_after)
        source = _read(arguments.file)
    except (OSError, ValueError) as error:
        print(f"metagrad-opt: {error}", file=sys.stderr)
        return 1
    failed = False
    seconds: list[tuple[str, float]] = []
    for number, text in enumerate(
        re.split(f"^{SPLIT}$", source, flags=re.MULTILINE)
        if arguments.split_input_file
        else [source]
    ):
        if number:
            print(SPLIT)
        try:
            module = context.parse(text)
            with module.context, ir.Location.unknown():
                seconds += transform(
                    module, calls, verify_each=arguments.verify_each, print_after=print_after
                )
                print(context.text(module), end="")
        except (ValueError, EnzymeError) as error:
            print(f"metagrad-opt: {error}", file=sys.stderr)
            failed = True
    if arguments.timing:
        _print_timing(seconds)
    return int(failed)


def _parser() -> argparse.ArgumentParser:
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
        help="the passes, in order, with options in braces, like "
        "schedule{schedule=LazyKary(k=2) steps=8}: " + ", ".join(PASSES),
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
    parser.add_argument(
        "--verify-each",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="verify the module after every pass (default), or only before the first and after "
        "the last",
    )
    parser.add_argument(
        "--print-after",
        default="",
        metavar="NAME[,NAME]|all",
        help="print the module after these passes, on the standard error",
    )
    parser.add_argument(
        "--timing",
        action="store_true",
        help="print how long each pass took, on the standard error",
    )
    return parser


def _pass_names(text: str) -> list[str]:
    names = [name for name in text.split(",") if name]
    for name in names:
        if name not in PASSES and name != "all":
            raise ValueError(
                f"--print-after: there is no pass {name!r}; there are all, {', '.join(PASSES)}"
            )
    return names


def _print_timing(seconds: list[tuple[str, float]]) -> None:
    for name in dict.fromkeys(name for name, _ in seconds):
        print(f"{sum(s for n, s in seconds if n == name):10.4f} s  {name}", file=sys.stderr)
    print(f"{sum(s for _, s in seconds):10.4f} s  total", file=sys.stderr)


def _read(path: str) -> str:
    if path == "-":
        return sys.stdin.read()
    with open(path, encoding="utf-8") as file:
        return file.read()


if __name__ == "__main__":
    sys.exit(main())
