"""The command line of metagrad: `metagrad demo`, `doctor`, ..., or `python -m metagrad ...`.

Each subcommand is a file in metagrad/commands. The exit status is 2 for a mistake in the arguments,
as argparse has it, and 1 for what cannot be done: a demo without its extra, a file that is refused.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version

from metagrad.commands import demo, doctor, ir, plan, show

_ABOUT = """\
Exact gradients of whole training runs, compiled. In Python:

    @metagrad.compile
    def train_step(state, meta, batch): ...                 # uses metagrad.grad(loss)(...)

    result = train_step.metagradient(outer)(state0, meta, batches)"""

_FIRST_STEPS = """\
first steps:
  metagrad doctor          does everything work on this machine?
  metagrad demo --quick    a metagradient at work on real data, in a shortened run
  metagrad plan --help     will my run fit, and how long will it take? Needs sizes only
  metagrad ir --help       what the compiler makes of a step in your own file

`metagrad COMMAND --help` explains a command, with examples. metagrad-opt runs the compiler's passes
on MLIR files."""


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="metagrad",
        description=_ABOUT,
        epilog=_FIRST_STEPS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"metagrad {version('metagrad')}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command in (doctor, demo, plan, ir, show):
        command.add(commands)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one subcommand.

    Returns the exit status; argparse raises SystemExit(2) for a mistake in the arguments.
    """
    for stream in (sys.stdout, sys.stderr):
        # A character that a terminal or log file lacks becomes a question mark, not a traceback.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    arguments = parser().parse_args(argv)
    try:
        status = arguments.run(arguments)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130  # as a shell reports SIGINT
    except BrokenPipeError:
        # The reader has enough, as in `metagrad ir ... | head`. Python would complain once more
        # when it flushes the standard output at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141  # as a shell reports SIGPIPE
