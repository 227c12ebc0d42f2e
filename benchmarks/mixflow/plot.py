"""Draws memory against the number of steps, and time against memory, of the rows of a record."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.mixflow.contenders import BY_HAND, CONTENDERS, DEFAULT, OURS, OURS_BLOCKS

LOOKS = {
    DEFAULT: ("#34495e", "X"),
    "checkpoint": ("#7f8c8d", "P"),
    "checkpoint + blocks": ("#95a5a6", "s"),
    BY_HAND: ("#e67e22", "^"),
    OURS: ("#c0392b", "o"),
    OURS_BLOCKS: ("#8e44ad", "D"),
    "TorchOpt": ("#27ae60", "v"),
}


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Two panels: each row's memory relative to default JAX's, by T; and time by memory.

    Both are relative to default JAX, so that rows of all sizes fit one picture.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (by_steps, by_memory) = pyplot.subplots(1, 2, figsize=(11, 5))
    for name in CONTENDERS:
        colour, marker = LOOKS[name]
        style = {"s": 40, "marker": marker, "edgecolors": colour, "facecolors": "none"}
        points = [point for row in rows if (point := relative(row, name)) is not None]
        if name != DEFAULT and points:
            by_steps.scatter(*zip(*((p["steps"], p["memory"]) for p in points)), **style)
        timed = [(p["memory"], p["time"]) for p in points if p["time"] is not None]
        if timed:
            by_memory.scatter(*zip(*timed), label=name, **style)
    by_steps.axhline(0.1, color="grey", linewidth=0.8, linestyle="--")
    by_memory.axvline(0.1, color="grey", linewidth=0.8, linestyle="--")
    by_memory.axhline(0.75, color="grey", linewidth=0.8, linestyle="--")
    for panel in (by_steps, by_memory):
        panel.grid(alpha=0.3)
    by_steps.set(xscale="log", yscale="log", xlabel="inner steps T", ylabel="memory / default JAX")
    by_steps.set_xticks([2, 4, 8, 32, 128], labels=["2", "4", "8", "32", "128"], minor=False)
    by_steps.minorticks_off()
    by_memory.set(xscale="log", xlabel="memory / default JAX", ylabel="time / default JAX")
    by_memory.set_ylim(bottom=0)
    if by_memory.get_legend_handles_labels()[0]:
        figure.legend(loc="lower center", ncol=4, frameon=False)
    figure.tight_layout(rect=(0, 0.1, 1, 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def relative(row: dict[str, Any], name: str) -> dict[str, Any] | None:
    """A contender's memory and time over default JAX's; None if either has no memory by XLA."""
    entry, default = (row["contenders"].get(each) for each in (name, DEFAULT))
    if not (entry and default and entry["memory_bytes"] and default["memory_bytes"]):
        return None
    both = entry["seconds"] is not None and default["seconds"] is not None
    return {
        "steps": row["steps"],
        "memory": entry["memory_bytes"] / default["memory_bytes"],
        "time": entry["seconds"] / default["seconds"] if both else None,
    }
