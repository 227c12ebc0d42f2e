"""`python -m benchmarks.mixflow.markdown`: results/mixflow.json as docs/mixed_mode.md has it.

With `--page` it writes the tables into that page.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.__main__ import RESULTS
from benchmarks.mixflow.aims import counts
from benchmarks.mixflow.contenders import CONTENDERS, OURS, OURS_BLOCKS
from benchmarks.page import with_table

MIB = 2**20


def memory(rows: list[dict[str, Any]]) -> list[str]:
    """Memory of all rows: XLA's, and the process's peak where the row was run."""
    return _table(rows, _memory)


def time(rows: list[dict[str, Any]]) -> list[str]:
    """Seconds of the rows that were run."""
    return _table([row for row in rows if row["timed"]], _seconds)


def lines(rows: list[dict[str, Any]]) -> list[str]:
    """Both tables, and the counts of the aims."""
    counted = [line for ours in (OURS, OURS_BLOCKS) for line in counts(rows, ours)]
    return [*memory(rows), "", *time(rows), "", *(f"- {line}" for line in counted)]


def _table(rows: list[dict[str, Any]], cell) -> list[str]:
    names = [name for name in CONTENDERS if any(name in row["contenders"] for row in rows)]
    headings = ["task", "transformer", "batch x context", "T", *names]
    return [
        f"| {' | '.join(headings)} |",
        f"|{' --- |' * len(headings)}",
        *(
            f"| {row['task']} | {row['transformer']} | {row['batch']} x {row['context']} | "
            f"{row['steps']} | {' | '.join(cell(row, name) for name in names)} |"
            for row in rows
        ),
    ]


def _memory(row: dict[str, Any], name: str) -> str:
    entry = row["contenders"].get(name)
    if entry is None:
        return ""
    by_xla = entry["memory_bytes"] if entry["memory_source"] == "xla" else None
    shown = [
        f"{number / MIB:.0f}" if number >= 10 * MIB else f"{number / MIB:.1f}"
        for number in (by_xla, entry["resident_bytes"])
        if number is not None
    ]
    return ", ".join(shown) if by_xla is not None or not shown else f"-, {shown[0]}"


def _seconds(row: dict[str, Any], name: str) -> str:
    entry = row["contenders"].get(name)
    if entry is None or entry["seconds"] is None:
        return ""
    return f"{entry['seconds']:.3f}" if entry["seconds"] < 1 else f"{entry['seconds']:.2f}"


def page(text: str, rows: list[dict[str, Any]], gpu_rows: list[dict[str, Any]]) -> str:
    """The text of the page, with the tables of the results in their places.

    Raises:
      ValueError: the page has no such place.
    """
    for place, table in (("results", lines(rows)), ("h100", compiled_for_gpu(gpu_rows))):
        text = with_table(text, f"mixflow: {place}", table, PAGE)
    return text


def results() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The rows of results/mixflow.json and results/mixflow_gpu.json."""
    read = lambda name: json.loads((RESULTS / name).read_text())["rows"]
    return read("mixflow.json"), read("mixflow_gpu.json")


def compiled_for_gpu(rows: list[dict[str, Any]]) -> list[str]:
    """Temporaries and results in GB of 10^9 bytes, of programs that were compiled for an H100.

    The final state is a result of a metagradient, and a temporary of the others.
    """
    names = list(dict.fromkeys(row["program"] for row in rows))
    of = {(row["model"], row["steps"], row["program"]): row for row in rows}
    settings = sorted({(row["model"], row["steps"]) for row in rows})

    def cell(setting: tuple[str, int], name: str) -> str:
        row = of.get((*setting, name), {})
        if "memory" not in row:
            return row.get("note", "")
        return f"{(row['memory']['temporaries'] + row['memory']['outputs']) / 1e9:.2f}"

    return [
        f"| {' | '.join(['transformer', 'T', *(f'`{name}`' for name in names)])} |",
        f"|{' --- |' * (len(names) + 2)}",
        *(
            f"| {model} | {steps} | {' | '.join(cell((model, steps), name) for name in names)} |"
            for model, steps in settings
        ),
    ]


PAGE = Path(__file__).parents[2] / "docs" / "mixed_mode.md"


def main() -> None:
    if sys.argv[1:] == ["--page"]:
        PAGE.write_text(page(PAGE.read_text(), *results()))
    else:
        print("\n".join(lines(results()[0])))


if __name__ == "__main__":
    main()
