"""What the demo prints: headings, tables, and the progress of work that takes a while.

On a terminal, work in progress is a spinner or a bar with the time that has passed, and vanishes
when it is done. Elsewhere (a pipe, a log) nothing moves: a piece of work is one line, which its
time completes.
"""

import time
from contextlib import contextmanager

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

WIDTH_OF_A_LOG = 110


def console():
    """A console on stdout; a pipe has no width of its own and gets WIDTH_OF_A_LOG."""
    out = Console(highlight=False)
    return out if out.is_terminal else Console(highlight=False, width=WIDTH_OF_A_LOG)


def heading(out, title):
    out.print(f"\n[bold]{title}[/bold]")


def text(out, lines, indent=2):
    """Text of unknown content and width: as it is, no markup, no wrapping."""
    for line in str(lines).splitlines():
        out.print((" " * indent + line).rstrip(), markup=False, soft_wrap=True)


class Stopwatch:
    seconds = 0.0


@contextmanager
def working(out, what):
    """Shows that `what` is going on, then how long it took.

    Yields a Stopwatch whose `seconds` are set when the work is done.
    """
    watch, start = Stopwatch(), time.perf_counter()
    if out.is_terminal:
        with Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            console=out,
            transient=True,
        ) as progress:
            progress.add_task(what)
            yield watch
            watch.seconds = time.perf_counter() - start
        out.print(f"  {what}: {watch.seconds:.1f} s")
    else:
        out.print(f"  {what}:", end="")
        out.file.flush()
        try:
            yield watch
            watch.seconds = time.perf_counter() - start
        except BaseException:
            out.print()
            raise
        out.print(f" {watch.seconds:.1f} s")


@contextmanager
def rounds(out, what, total):
    """A bar over `total` rounds. Yields a function that ends a round and prints its line."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=out, transient=True, disable=not out.is_terminal) as progress:
        task = progress.add_task(what, total=total)

        def done(line):
            out.print(line)
            out.file.flush()
            progress.advance(task)

        yield done


def table(*columns):
    """A table whose first column has words and whose other columns have numbers.

    Tables are meant to fit into 80 columns of text.
    """
    rich_table = Table(box=box.SIMPLE, show_edge=False, pad_edge=False, header_style="")
    for place, column in enumerate(columns):
        rich_table.add_column(column, justify="right" if place else "left", no_wrap=True)
    return rich_table


def show(out, rich_table):
    """Prints a table, indented, under an empty line."""
    out.print()
    out.print(Padding.indent(rich_table, 2))


def size(number):
    """A number of bytes in words."""
    for unit in ("B", "KiB", "MiB"):
        if number < 1024:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.2f} GiB"


def duration(seconds):
    return f"{seconds * 1e3:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
