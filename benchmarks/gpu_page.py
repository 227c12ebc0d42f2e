"""`python -m benchmarks.gpu_page`: writes the tables of results/gpu.json into docs/gpu.md."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.__main__ import RESULTS
from benchmarks.page import with_table

PAGE = Path(__file__).parents[1] / "docs" / "gpu.md"

HEADINGS = "run", "program", "time", "x plain", "temporaries", "compiled in", "differs by"


def lines(records: list[dict[str, Any]]) -> list[str]:
    """A table for each device, JAX and setting of XLA, with a line for each program."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for each in records:
        flags = f"`XLA_FLAGS={each['xla_flags']}`" if each["xla_flags"] else "XLA's own settings"
        group = f"{each['device']['name']}, jax {each['versions']['jax']}, {flags}:"
        groups.setdefault(group, []).extend(each["results"])
    tables = []
    for group, results in groups.items():
        tables += [
            group,
            "",
            f"| {' | '.join(HEADINGS)} |",
            "| --- | --- |" + " ---: |" * (len(HEADINGS) - 2),
            *(
                f"| {' | '.join(_cells(result, row))} |"
                for result in results
                for row in result["rows"]
            ),
            "",
        ]
    return tables[:-1]


def _cells(result: dict[str, Any], row: dict[str, Any]) -> tuple[str, ...]:
    shown = lambda value, form: "" if value is None else form.format(value)
    counted = " (counted)" if row["memory_source"] == "counted" else ""
    return (
        f"{result['model']}, T = {result['steps']}, {result['precision']}",
        f"`{row['contender']}`" if row["contender"].startswith("metagrad") else row["contender"],
        shown(row["seconds"] and 1e3 * row["seconds"], "{:,.1f} ms")
        or row["note"].partition(":")[0],
        shown(row["ratio"], "{:.2f}"),
        shown(row["memory_bytes"] and row["memory_bytes"] / 1e6, "{:,.0f} MB") + counted,
        shown(row["compile_seconds"], "{:.1f} s"),
        shown(row["error"], "{:.0e}"),
    )


def page(text: str, records: list[dict[str, Any]]) -> str:
    """The text of the page, with the tables in their place."""
    return with_table(text, "gpu: results", lines(records), PAGE)


def main() -> None:
    records = json.loads((RESULTS / "gpu.json").read_text())["records"]
    PAGE.write_text(page(PAGE.read_text(), records))


if __name__ == "__main__":
    main()
