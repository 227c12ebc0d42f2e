"""`python -m benchmarks.queries`: Q queries in one replay, against Q single runs.

The query is the loss on a part of the held-out batch. One program takes the gradient of the first
of eight parts, the others that of the first Q parts together. They run in turn in one process, in
an order that is reversed from round to round. The ratio is the time of Q queries over Q times that
of the single run of the same round, and its median is reported. The gradients must be those of the
single run up to rounding.
"""

from __future__ import annotations

import argparse
import functools
import shlex
import statistics
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

import metagrad
from benchmarks import record
from benchmarks.__main__ import RESULTS, model_name, positive, words
from benchmarks.contenders.contender import Problem, place
from benchmarks.models import MODELS
from benchmarks.rounds import in_turns, median_ratio

PARTS = 8
EQUAL = 1e-4
MODEL_NAMES = ("gpt", "mlp", "convnet")


def parts_of(held_out: Any, count: int) -> Any:
    """The first `count` of eight equal parts of the held-out batch, along a new leading axis."""

    def split(x):
        size = len(x) // PARTS
        return x[: count * size].reshape(count, size, *x.shape[1:])

    return jax.tree.map(split, held_out)


def programs(problem: Problem, queries: tuple[int, ...], schedule: Any) -> dict[int, tuple]:
    """For each Q a compiled metagradient and its arguments; 0 stands for the single run."""
    outer = problem.model.outer
    step = metagrad.compile(problem.model.make_step(metagrad))
    compiled = {}
    for count in (0, *queries):
        if count:
            held_out = parts_of(problem.held_out, count)
            mg = step.metagradient(jax.vmap(outer, (None, 0)), schedule=schedule)
        else:
            held_out = jax.tree.map(lambda x: x[0], parts_of(problem.held_out, 1))
            mg = step.metagradient(outer, schedule=schedule)
        arguments = (problem.state0, problem.meta, problem.batches, held_out)
        compiled[count] = mg.lower(*arguments).compile(), arguments
    return compiled


def measure(name: str, steps: int, slots: int, queries: tuple[int, ...], rounds: int) -> dict:
    """One model's row of the record."""
    problem = place(MODELS[name](), steps)
    compiled = programs(problem, queries, metagrad.Binomial(slots))
    memory = {
        count: program.memory_analysis().temp_size_in_bytes
        for count, (program, _) in compiled.items()
    }
    gradients = {
        count: np.asarray(program(*arguments).grad)
        for count, (program, arguments) in compiled.items()
    }
    alone = gradients.pop(0)
    errors = {
        count: float(np.abs(gradient[0] - alone).max() / np.abs(alone).max())
        for count, gradient in gradients.items()
    }
    if max(errors.values()) > EQUAL:
        raise ValueError(f"{name}: the gradients differ from the single run's: {errors}")
    bound = {count: functools.partial(p, *arguments) for count, (p, arguments) in compiled.items()}
    times = in_turns(bound, range(rounds))
    return {
        "model": name,
        "description": problem.model.description,
        "steps": steps,
        "schedule": f"Binomial({slots})",
        "single_seconds": statistics.median(times[0]),
        "single_memory_bytes": memory[0],
        "queries": [
            {
                "queries": count,
                "seconds": statistics.median(times[count]),
                "ratio": median_ratio(times[count], times[0]) / count,
                "memory_bytes": memory[count],
                "error": errors[count],
            }
            for count in queries
        ],
        "times": times,
    }


def table(rows: list[dict]) -> Table:
    rich_table = Table(title="Q queries in one replay against Q single runs", title_justify="left")
    for heading in ("model", "T", "Q", "seconds", "of one run", "of Q runs", "MiB", "error"):
        rich_table.add_column(heading, justify="left" if heading == "model" else "right")
    for row in rows:
        single = (
            f"{row['single_seconds']:.3f}",
            "1.00",
            "",
            f"{row['single_memory_bytes'] / 2**20:.0f}",
        )
        rich_table.add_row(row["model"], str(row["steps"]), "single", *single, "")
        for entry in row["queries"]:
            rich_table.add_row(
                row["model"],
                str(row["steps"]),
                str(entry["queries"]),
                f"{entry['seconds']:.3f}",
                f"{entry['ratio'] * entry['queries']:.2f}",
                f"{entry['ratio']:.2f}",
                f"{entry['memory_bytes'] / 2**20:.0f}",
                f"{entry['error']:.0e}",
            )
    return rich_table


def main(argv: list[str] | None = None) -> int:
    top = argparse.ArgumentParser(
        prog="python -m benchmarks.queries", description=__doc__.split(": ", 1)[1].split("\n")[0]
    )
    top.add_argument(
        "--models",
        type=words(model_name),
        default=MODEL_NAMES,
        help=f"names between commas (default: {','.join(MODEL_NAMES)})",
    )
    top.add_argument("--steps", type=positive, default=64, help="T (default: %(default)s)")
    top.add_argument(
        "--slots", type=positive, default=24, help="of the schedule Binomial (default: %(default)s)"
    )
    top.add_argument(
        "--queries",
        type=words(positive),
        default=(1, 2, 4, 8),
        help="numbers between commas, up to 8 (default: 1,2,4,8)",
    )
    top.add_argument("--repeat", type=positive, default=5, help="rounds (default: %(default)s)")
    top.add_argument(
        "--out",
        metavar="DIR",
        type=Path,
        default=RESULTS,
        help="folder for the JSON (default: results, beside this program)",
    )
    arguments = top.parse_args(argv)
    if max(arguments.queries) > PARTS:
        top.error(f"--queries: the held-out batch has {PARTS} parts")
    console = Console() if sys.stdout.isatty() else Console(width=120)
    path = arguments.out / "queries.json"
    written = record.provenance(
        "python -m benchmarks.queries " + shlex.join(sys.argv[1:] if argv is None else argv)
    )
    written["results"] = []
    for name in track(arguments.models, "queries", console=console, transient=True):
        written["results"].append(
            measure(name, arguments.steps, arguments.slots, arguments.queries, arguments.repeat)
        )
        # After each model, so that a run that is stopped leaves what it has.
        record.write(path, written)
    console.print(table(written["results"]))
    console.print(f"written: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
