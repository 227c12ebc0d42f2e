"""What the subcommands share: how one is described, and the types of arguments."""

from __future__ import annotations

import argparse
import math
import sys
import textwrap
from collections.abc import Callable
from typing import Any

from metagrad.runtime.byte_sizes import parse_bytes

FAILED = 1
"""The exit status for what cannot be done. A mistake in the arguments is 2, as argparse has it."""


def subcommand(
    commands: Any, name: str, run: Callable[[argparse.Namespace], int], *, help: str, about: str
) -> argparse.ArgumentParser:
    """Adds a subcommand.

    Args:
      commands: what `add_subparsers` returned.
      name: of the subcommand.
      run: what it does; gets the arguments, returns the exit status.
      help: its line in the list of subcommands.
      about: its own help: a text whose last part, behind a line "Examples:", stands below the
        arguments, as it was written.
    """
    description, _, examples = textwrap.dedent(about).strip().partition("\nExamples:\n")
    parser = commands.add_parser(
        name,
        help=help,
        description=description,
        epilog=f"examples:\n{examples}" if examples else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run, parser=parser)
    return parser


def complain(arguments: argparse.Namespace, message: object) -> int:
    """Prints a message on the standard error, with the command's name. Returns the exit status."""
    print(f"{arguments.parser.prog}: {message}", file=sys.stderr)
    return FAILED


def count(least: int, most: int | None = None) -> Callable[[str], int]:
    """An argparse type: an integer that is at least `least`, and at most `most`."""

    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
        if number < least:
            raise argparse.ArgumentTypeError(f"must be at least {least}, not {number}")
        if most is not None and number > most:
            raise argparse.ArgumentTypeError(f"must be at most {most:,}, not {number:,}")
        return number

    return parse


def byte_count(text: str) -> int:
    """An argparse type: a number of bytes, such as "1.8GiB"."""
    try:
        return parse_bytes("the size", text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def byte_rate(text: str) -> int:
    """An argparse type: bytes per second, above zero."""
    if not (number := byte_count(text)):
        raise argparse.ArgumentTypeError("must be above zero: nothing would ever be moved")
    return number


def budget(text: str) -> str:
    """An argparse type: a number of bytes as it was written, for messages to show it."""
    byte_count(text)
    return text


def positive(text: str) -> float:
    """An argparse type: a finite number above zero."""
    return _number(text, lambda number: number > 0, "a number above zero")


def not_negative(text: str) -> float:
    """An argparse type: a finite number that is zero or more."""
    return _number(text, lambda number: number >= 0, "a number that is zero or more")


def _number(text: str, accepts: Callable[[float], bool], wanted: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number) or not accepts(number):
        raise argparse.ArgumentTypeError(f"{text!r} is not {wanted}")
    return number
