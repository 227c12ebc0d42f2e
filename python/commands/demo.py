"""`metagrad demo`: wrong labels found and a learning-rate schedule learned, on real data."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from metagrad.commands.arguments import complain, count, subcommand

QUICK_STEPS, QUICK_ROUNDS = 40, 2

_ABOUT = """
Trains a classifier on scikit-learn's handwritten digits, takes the metagradient of its validation
loss through the whole run, finds planted label errors with it and learns a learning-rate schedule.
A run takes a minute or two on two cores. Needs the extra: pip install "metagrad[demo]"

The folder then holds the program after each stage of the compiler (1-traced.mlir and so on),
pictures of the plan, of the weights' gradients and of the schedule, and results.json with every
number of the report.

Examples:
  metagrad demo                          all of it, into the folder metagrad-demo
  metagrad demo --quick                  a shortened run: does it work here?
  metagrad demo --seed 3 --out seed-3    another split of the data, other label errors
"""


def add(commands: Any) -> None:
    parser = subcommand(
        commands,
        "demo",
        run,
        help="find wrong labels and learn a learning-rate schedule on handwritten digits",
        about=_ABOUT,
    )
    parser.add_argument(
        "--out",
        metavar="DIR",
        type=Path,
        default=Path("metagrad-demo"),
        help="folder for the IR of every stage, the plots and the numbers (default: %(default)s)",
    )
    parser.add_argument(
        "--steps", metavar="N", type=count(2), help="Adam steps of the training run (default: 300)"
    )
    parser.add_argument(
        "--rounds",
        metavar="N",
        type=count(1),
        help="rounds of metagradient descent on the schedule (default: 10)",
    )
    parser.add_argument(
        "--seed",
        metavar="N",
        type=count(0),
        default=0,
        help="fixes the split, the noise and the run (default: 0)",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help=f"a shortened run: {QUICK_STEPS} steps, {QUICK_ROUNDS} rounds, unless said otherwise",
    )


def run(arguments: argparse.Namespace) -> int:
    from metagrad.demo.requirements import MissingExtra, require_extra

    try:
        require_extra()
    except MissingExtra as error:
        return complain(arguments, error)
    # Checked first: two minutes of work should not end in a folder that refuses the results.
    try:
        _make_writable(arguments.out)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        arguments.parser.error(
            f"argument --out: cannot write to the folder {str(arguments.out)!r} ({reason}); "
            "name one that you may write to"
        )

    from metagrad.demo.job import run as run_job
    from metagrad.demo.problem import Settings

    steps = arguments.steps or (QUICK_STEPS if arguments.quick else Settings.steps)
    rounds = arguments.rounds or (QUICK_ROUNDS if arguments.quick else Settings.rounds)
    run_job(Settings(out=arguments.out, steps=steps, rounds=rounds, seed=arguments.seed))
    return 0


def _make_writable(folder: Path) -> None:
    """Makes `folder` and proves that files can be written there. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / ".metagrad-can-write"
    probe.write_bytes(b"")
    probe.unlink()
