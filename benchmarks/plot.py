"""Plots memory against time, one panel per model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

FAMILIES = {
    "metagrad": ("metagrad", "#c0392b", "o"),
    "replay+mixflow": ("Replay with mixed mode, by hand", "#8e44ad", "v"),
    "replay": ("Replay, by hand", "#2c6fbb", "s"),
    "equinox": ("Equinox's loop, mixed mode", "#27ae60", "D"),
    "mixflow": ("MixFlow-MG, by hand", "#e67e22", "^"),
    "checkpoint": ("jax.checkpoint per step", "#7f8c8d", "P"),
    "unrolled": ("jax.grad of the scan", "#34495e", "X"),
}


def family(contender: str) -> tuple[str, str, str] | None:
    """(legend, colour, marker); None for plain training, which is the unit and not a point."""
    return next((look for start, look in FAMILIES.items() if contender.startswith(start)), None)


def draw(results: list[dict[str, Any]], path: Path) -> None:
    """Draws the results of a record (its "results") into a PNG file.

    Filled points are the longest run of a model, hollow ones the shorter runs.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    models = list(dict.fromkeys(result["model"] for result in results))
    figure, panels = pyplot.subplots(
        1, len(models), figsize=(5.6 * len(models), 5.2), squeeze=False
    )
    shown: dict[str, Any] = {}
    for panel, model in zip(panels[0], models):
        runs = [result for result in results if result["model"] == model]
        longest = max(run["steps"] for run in runs)
        for run in runs:
            for row in run["rows"]:
                look = family(row["contender"])
                if look is None or row["ratio"] is None:
                    continue
                legend, colour, marker = look
                point = panel.scatter(
                    row["memory_bytes"] / 2**20,
                    row["ratio"],
                    s=48,
                    marker=marker,
                    edgecolors=colour,
                    facecolors=colour if run["steps"] == longest else "none",
                    zorder=3,
                )
                if run["steps"] == longest:
                    shown.setdefault(legend, point)
                    _label(panel, row)
        panel.set_xscale("log")
        panel.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        panel.xaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
        panel.xaxis.set_minor_formatter(ticker.NullFormatter())
        panel.margins(x=0.25, y=0.1)
        panel.set_ylim(bottom=0)
        panel.set_xlabel("memory beyond arguments and results (MiB)")
        panel.set_ylabel("time (plain training = 1)")
        steps = (
            " (hollow: {})".format(
                ", ".join(str(run["steps"]) for run in runs if run["steps"] != longest)
            )
            if len(runs) > 1
            else ""
        )
        panel.set_title(f"{model}, T = {longest}{steps}")
        panel.grid(alpha=0.3)
    figure.legend(
        shown.values(),
        shown.keys(),
        loc="lower center",
        ncol=min(4, 2 * len(models)),
        frameon=False,
    )
    figure.tight_layout(rect=(0, 0.16 if len(models) == 1 else 0.1, 1, 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def _label(panel, row: dict[str, Any]) -> None:
    name = row["contender"].removeprefix("metagrad ")
    inside = (
        name[name.index("(") + 1 : -1]
        if "(" in name and not row["contender"].startswith("metagrad")
        else name
    )
    if inside != name or row["contender"].startswith("metagrad"):
        panel.annotate(
            inside,
            (row["memory_bytes"] / 2**20, row["ratio"]),
            xytext=(4, 4),
            textcoords="offset points",
            fontsize=7,
        )


def draw_frontier(results: list[dict[str, Any]], path: Path) -> None:
    """Draws memory against time of one step's VJP (remat_frontier.py) into a PNG file."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    looks = (("metagrad", "#c0392b", "o"), ("JAX", "#34495e", "X"), ("MixFlow", "#e67e22", "^"))
    figure, panels = pyplot.subplots(
        1, len(results), figsize=(6.4 * len(results), 5.2), squeeze=False
    )
    for panel, result in zip(panels[0], results):
        for start, colour, marker in looks:
            rows = [row for row in result["rows"] if row["contender"].startswith(start)]
            places = [(row["memory_bytes"] / 2**20, row["time_ratio"]) for row in rows]
            panel.scatter(*zip(*places), s=48, c=colour, marker=marker, label=start, zorder=3)
            for row, place in zip(rows, places):
                name = row["contender"].removeprefix(start).strip(" ,") or "default"
                panel.annotate(name, place, xytext=(4, 4), textcoords="offset points", fontsize=7)
        panel.margins(x=0.25, y=0.15)
        panel.set_xlim(left=0)
        panel.set_ylim(bottom=0)
        panel.set_xlabel("memory beyond operands and results (MiB)")
        panel.set_ylabel("time (MixFlow by hand with checkpoint = 1)")
        panel.set_title(f"VJP of a step, {result['model']}")
        panel.grid(alpha=0.3)
    panels[0][0].legend(frameon=False)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)
