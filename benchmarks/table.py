"""The terminal table of one problem."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from benchmarks.contenders.contender import Problem
from benchmarks.measure import Row


def table(problem: Problem, rows: Sequence[Row]) -> Table:
    rounds = max((len(row.times) for row in rows), default=0)
    made = Table(
        title=f"{problem.model.description}; T = {problem.steps}, state {problem.state_bytes / 2**20:.2f} MiB, median of {rounds}",
        title_justify="left",
        caption="memory: beyond arguments and results; * counted, else as XLA reports it. error: against f64, relative to the largest entry",
        caption_justify="left",
    )
    made.add_column("contender", no_wrap=True)
    for heading in ("time", "x plain", "memory", "in states", "compile", "error"):
        made.add_column(heading, justify="right", no_wrap=True)
    made.add_column("")
    for row in rows:
        memory = row.memory_bytes
        made.add_row(
            row.contender,
            _shown(row.seconds, "{:.3f} s"),
            _shown(row.ratio, "{:.2f}"),
            _shown(memory and memory / 2**20, "{:.1f} MiB") + ("*" if row.memory_source == "counted" else " " if memory else ""),
            _shown(memory and memory / problem.state_bytes, "{:.1f}"),
            _shown(row.compile_seconds, "{:.1f} s"),
            _shown(row.error, "{:.0e}"),
            row.note,
            style="bold" if row.contender.startswith("metagrad") else None,
        )
    return made


def _shown(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)
