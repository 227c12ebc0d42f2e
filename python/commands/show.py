"""`metagrad show`: what an exported run holds."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from metagrad.commands.arguments import complain, subcommand

_ABOUT = """
Loads a file that compiled.export wrote, as metagrad.load does, and prints its arguments (paths,
shapes, dtypes), programs, plan and versions. Nothing of it is run. The exit status is 1 for a file
that metagrad.load refuses.

Examples:
  metagrad show run.mg

  In Python, such a file is made by
      mg.lower(state0, meta, batches).compile().export("run.mg")
  and run, where Enzyme need not be installed, by
      metagrad.load("run.mg")(state0, meta, batches)
"""


def add(commands: Any) -> None:
    parser = subcommand(commands, "show", run, help="say what an exported run holds", about=_ABOUT)
    parser.add_argument("file", metavar="FILE", type=Path, help="the file")


def run(arguments: argparse.Namespace) -> int:
    from metagrad.api.load import load

    try:
        print(load(arguments.file).explain())
    except (OSError, ValueError) as error:
        return complain(arguments, error)
    return 0
