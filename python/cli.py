"""The command line of metagrad: `metagrad demo`, `doctor`, `show`, or `python -m metagrad ...`.

What a subcommand needs is imported only when it runs, so that `--help` works without the extras.
The exit status is 2 for a mistake in the arguments, as argparse has it, and 1 for what cannot be
done: a demo without its extra, a file that is refused.
"""

import argparse
import sys
from importlib.metadata import version
from pathlib import Path

QUICK_STEPS, QUICK_ROUNDS = 40, 2


def count(least):
    """An argparse type: an integer that is at least `least`."""

    def parse(text):
        try:
            number = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
        if number < least:
            raise argparse.ArgumentTypeError(f"must be at least {least}, not {number}")
        return number

    return parse


def parser():
    top = argparse.ArgumentParser(
        prog="metagrad", description="Exact gradients of whole training runs."
    )
    top.add_argument("--version", action="version", version=f"metagrad {version('metagrad')}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    demo = commands.add_parser(
        "demo",
        help="find wrong labels and learn a learning-rate schedule on handwritten digits",
        description="Trains a classifier on scikit-learn's handwritten digits, takes the "
        "metagradient of its validation loss through the whole run, finds planted label errors "
        "with it and learns a learning-rate schedule. Needs the extra "
        "`pip install metagrad[demo]`.",
    )
    demo.add_argument(
        "--out",
        metavar="DIR",
        type=Path,
        default=Path("metagrad-demo"),
        help="folder for the IR of every stage, the plots and the numbers (default: %(default)s)",
    )
    demo.add_argument(
        "--steps", metavar="N", type=count(2), help="Adam steps of the training run (default: 300)"
    )
    demo.add_argument(
        "--rounds",
        metavar="N",
        type=count(1),
        help="rounds of metagradient descent on the schedule (default: 10)",
    )
    demo.add_argument(
        "--seed",
        metavar="N",
        type=count(0),
        default=0,
        help="fixes the split, the noise and the run (default: 0)",
    )
    demo.add_argument(
        "--quick",
        action="store_true",
        help=f"a shortened run: {QUICK_STEPS} steps, {QUICK_ROUNDS} rounds, unless said otherwise",
    )
    demo.set_defaults(run=run_demo, parser=demo)
    doctor = commands.add_parser(
        "doctor",
        help="say what is installed and whether Enzyme works here",
        description="Prints the versions, where Enzyme's library is, whether its process answers "
        "with right derivatives, the compilation cache and the devices. The exit status is 0 if "
        "metagrad can compile with Enzyme here, and 1 if not.",
    )
    doctor.add_argument(
        "--fetch", action="store_true", help="get Enzyme's library if it is not there yet"
    )
    doctor.set_defaults(run=run_doctor)
    show = commands.add_parser(
        "show",
        help="say what an exported run holds",
        description="Loads a file that compiled.export wrote, as metagrad.load does, and prints "
        "its arguments, programs, plan and versions. Nothing of it is run. The exit status is 1 "
        "for a file that metagrad.load refuses.",
    )
    show.add_argument("file", metavar="FILE", type=Path, help="the file")
    show.set_defaults(run=run_show)
    return top


def writable(folder):
    """Makes `folder` and proves that files can be written there. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / ".metagrad-can-write"
    probe.write_bytes(b"")
    probe.unlink()


def run_demo(arguments):
    from metagrad.demo.requirements import MissingExtra, require_extra

    try:
        require_extra()
    except MissingExtra as error:
        print(f"{arguments.parser.prog}: {error}", file=sys.stderr)
        return 1
    # Checked first: two minutes of work should not end in a folder that refuses the results.
    try:
        writable(arguments.out)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        arguments.parser.error(
            f"argument --out: cannot write to the folder {str(arguments.out)!r} ({reason}); "
            "name one that you may write to"
        )

    from metagrad.demo.job import run
    from metagrad.demo.problem import Settings

    steps = arguments.steps or (QUICK_STEPS if arguments.quick else Settings.steps)
    rounds = arguments.rounds or (QUICK_ROUNDS if arguments.quick else Settings.rounds)
    run(Settings(out=arguments.out, steps=steps, rounds=rounds, seed=arguments.seed))
    return 0


def run_doctor(arguments):
    from metagrad.doctor import examine

    return examine(arguments.fetch)


def run_show(arguments):
    from metagrad.api.load import load

    try:
        print(load(arguments.file).explain())
    except (OSError, ValueError) as error:
        print(f"metagrad show: {error}", file=sys.stderr)
        return 1
    return 0


def main(argv=None):
    """Runs one subcommand.

    Returns the exit status; argparse raises SystemExit(2) for a mistake in the arguments.
    """
    for stream in (sys.stdout, sys.stderr):
        # A character that a terminal or log file lacks becomes a question mark, not a traceback.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    arguments = parser().parse_args(argv)
    try:
        return arguments.run(arguments)
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130  # as a shell reports SIGINT
