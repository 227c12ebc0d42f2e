"""The terminal table of one problem."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group
from rich.table import Table
from rich.text import Text

from benchmarks.contenders.contender import Problem
from benchmarks.measure import Row

HEADINGS = "time, s", "x plain", "x pieces", "MiB", "states", "compile, s", "error"


def table(problem: Problem, rows: Sequence[Row], reference: str = "f64") -> Group:
    """The rows as a table, and under it why something is missing from a row.

    `reference` says what errors are against.
    """
    rounds = max((len(row.times) for row in rows), default=0)
    rich_table = Table(
        title=f"{problem.model.description}\nT = {problem.steps}, "
        f"a state is {problem.state_bytes / 2**20:.2f} MiB, median of {rounds} rounds",
        title_justify="left",
    )
    rich_table.add_column("contender", no_wrap=True)
    for heading in HEADINGS:
        rich_table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        memory = row.memory_bytes
        mark = "*" if row.memory_source == "counted" else " "
        rich_table.add_row(
            row.contender,
            _shown(row.seconds, "{:.3f}"),
            _shown(row.ratio, "{:.2f}"),
            _shown(row.piece_ratio, "{:.2f}"),
            _shown(memory and memory / 2**20, "{:.1f}" + mark),
            _shown(memory and memory / problem.state_bytes, "{:.1f}"),
            _shown(row.compile_seconds, "{:.1f}"),
            _shown(row.error, "{:.0e}"),
            style="bold" if row.contender.startswith("metagrad") else None,
        )
    legend = (
        "MiB and states: memory beyond arguments and results (* counted, else by XLA); "
        f"error: against {reference}"
    )
    notes = [f"{row.contender}: {row.note}" for row in rows if row.note]
    return Group(rich_table, *(Text(line) for line in (legend, *notes)), Text())


def _shown(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)
