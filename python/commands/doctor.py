"""`metagrad doctor`: what is installed, and whether Enzyme works here."""

from __future__ import annotations

import argparse
from typing import Any

from metagrad.commands.arguments import subcommand

_ABOUT = """
Prints the versions, where Enzyme's library is, whether its process answers with right first and
second derivatives, the compilation cache and JAX's devices. The exit status is 0 if metagrad can
compile with Enzyme here, and 1 if not. Nothing is fetched unless --fetch says so.

Examples:
  metagrad doctor            the first thing to run, and to send with a report of a fault
  metagrad doctor --fetch    get Enzyme's library ahead of time (117 MiB), where pip did not

  METAGRAD_ENZYME=wheels/enzyme_ad-0.0.16-....whl metagrad doctor
                             use a wheel that was copied here, on a machine without network
"""


def add(commands: Any) -> None:
    parser = subcommand(
        commands,
        "doctor",
        run,
        help="say what is installed and whether Enzyme works here",
        about=_ABOUT,
    )
    parser.add_argument(
        "--fetch", action="store_true", help="get Enzyme's library if it is not there yet"
    )


def run(arguments: argparse.Namespace) -> int:
    from metagrad.doctor import examine

    return examine(arguments.fetch)
