"""What the command says of each program: the prediction beside what XLA says, and the aims."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from benchmarks.gpu_compile.programs import METAGRAD, STEP

NEAR = 0.1
"""Temporaries may differ from the plan's by this part of them."""

MOST_QUESTIONS = 3.0
"""Questions to the host for each training step."""

GB = 1e9


def step_workspace(step: dict[str, Any]) -> int:
    """Bytes that a step needs beside slots and what grows with the steps, as `Auto` finds it.

    Args:
      step: the row of the program "step".
    """
    details, memory = step["details"], step["memory"]
    sizes = details["sizes"]
    whole = _whole(memory)
    slots = details["slots"] * (sizes["state"] + sizes["gradient"])
    return (
        max(0, whole - slots - details["steps_of_segment"] * sizes["step"]) + details["outer_bytes"]
    )


def predicted(row: dict[str, Any], step: dict[str, Any] | None) -> int | None:
    """Bytes of temporaries as the plan has them.

    That is the plan's memory (slots, workspace, what grows with the steps) without arguments and
    results. None without the row of the program "step", which the workspace is known from.
    """
    if step is None or not row["program"].startswith(METAGRAD):
        return None
    details, memory = row["details"], row["memory"]
    plan = details["slot_bytes"] + details["bytes_of_steps"] + step_workspace(step)
    return plan - (_whole(memory) - memory["temporaries"])


def _whole(memory: dict[str, int]) -> int:
    return memory["arguments"] + memory["outputs"] + memory["temporaries"] - memory["aliased"]


def aims(row: dict[str, Any], step: dict[str, Any] | None) -> dict[str, bool]:
    """Which aims a metagradient's program reaches; an aim that cannot be judged is left out."""
    reached = {
        "no state is copied inside a segment": row["copies"]["states_inside_segments"] == 0,
        "bf16 products stay bf16": row["products"]["widened"] == 0,
    }
    if row["questions"]["total"] is not None:
        name = f"at most {MOST_QUESTIONS:g} questions to the host per step"
        reached[name] = row["questions"]["per_step"] <= MOST_QUESTIONS
    plan = predicted(row, step)
    if plan is not None:
        name = f"temporaries within {NEAR:.0%} of the plan"
        reached[name] = abs(row["memory"]["temporaries"] / plan - 1) <= NEAR
    return reached


def table(title: str, rows: list[dict[str, Any]]) -> Table:
    """The rows of one model, number of steps and precision."""
    shown = Table(title=title, title_justify="left")
    for heading in (
        "program",
        "arguments",
        "outputs",
        "temporaries",
        "plan",
        "XLA",
        "products",
        "bf16",
        "widened",
        "states copied",
        "in segments",
        "questions/step",
    ):
        shown.add_column(heading, justify="left" if heading in ("program", "products") else "right")
    step = next((row for row in rows if row["program"] == STEP and "memory" in row), None)
    for row in rows:
        if "memory" not in row:
            shown.add_row(row["program"], row["note"])
            continue
        plan, memory, questions = predicted(row, step), row["memory"], row["questions"]
        copied, inside = (row["copies"][name] for name in ("states", "states_inside_segments"))
        per_step = questions.get("per_step")
        shown.add_row(
            row["program"],
            *(size(memory[name]) for name in ("arguments", "outputs", "temporaries")),
            "" if plan is None else f"{size(plan)} ({memory['temporaries'] / plan:.2f})",
            f"{row['seconds']['xla']:.0f} s",
            by_library(row),
            str(row["products"]["in_bf16"]),
            str(row["products"]["widened"]),
            f"{copied:.2f}",
            f"{inside:.2f}",
            "data" if per_step is None else f"{per_step:.2f}",
        )
    return shown


def by_library(row: dict[str, Any]) -> str:
    """How many products each library has."""
    return ", ".join(f"{count} {name}" for name, count in row["products"]["by"].items())


def size(number: int) -> str:
    """Bytes, in MB or GB of powers of ten."""
    return f"{number / GB:.2f} GB" if number >= GB / 10 else f"{number / 1e6:.1f} MB"
