"""`python -m benchmarks.gpu_compile.markdown`: results/gpu_compile.json as benchmarks/README.md has
it.
"""

from __future__ import annotations

import json
from typing import Any

from benchmarks.__main__ import RESULTS
from benchmarks.gpu_compile.programs import STEP
from benchmarks.gpu_compile.rows import by_library, predicted, size

HEADINGS = (
    "model, T, products",
    "program",
    "temporaries",
    "/ plan",
    "with arguments and results",
    "XLA",
    "products",
    "in bf16, widened",
    "states copied, in segments",
    "questions per step",
)


def lines(rows: list[dict[str, Any]]) -> list[str]:
    """The table: a line for each program but "step", which the plans' workspaces are known from."""
    settings: dict[tuple, list[dict[str, Any]]] = {}
    for row in rows:
        if "memory" in row:
            settings.setdefault((row["model"], row["steps"], row["precision"]), []).append(row)
    table = [HEADINGS, ("---",) * len(HEADINGS)]
    for (model, steps, precision), of_setting in settings.items():
        step = next((row for row in of_setting if row["program"] == STEP), None)
        for row in of_setting:
            if row["program"] != STEP:
                table.append((f"{model}, {steps:,}, {precision}", *_cells(row, step)))
    return ["| " + " | ".join(cells) + " |" for cells in table]


def _cells(row: dict[str, Any], step: dict[str, Any] | None) -> tuple[str, ...]:
    plan, memory, products = predicted(row, step), row["memory"], row["products"]
    whole = memory["temporaries"] + memory["arguments"] + memory["outputs"]
    copied, inside = (row["copies"][name] for name in ("states", "states_inside_segments"))
    per_step = row["questions"].get("per_step")
    return (
        f"`{row['program']}`",
        size(memory["temporaries"]),
        "" if plan is None else f"{memory['temporaries'] / plan:.2f}",
        size(whole),
        f"{row['seconds']['xla']:.0f} s",
        by_library(row),
        f"{products['in_bf16']}, {products['widened']}",
        f"{copied:.2f}, {inside:.2f}",
        "as the data say" if per_step is None else f"{per_step:.2f}",
    )


if __name__ == "__main__":
    print("\n".join(lines(json.loads((RESULTS / "gpu_compile.json").read_text())["rows"])))
