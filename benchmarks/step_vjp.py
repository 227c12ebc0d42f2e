"""`python -m benchmarks.step_vjp`: one training step's vector-Jacobian product.

It compares metagrad's with one that is written by hand in JAX. Both are one XLA program with the
same operands and results (contenders/step_vjp.py). It compares their time, and the memory that XLA
says they need beyond operands and results. Their results must be equal up to rounding, and are
compared with `jax.vjp` of the step in f64.
"""

from __future__ import annotations

import argparse
import functools
import shlex
import statistics
import sys
from pathlib import Path

import jax
import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks import record
from benchmarks.__main__ import RESULTS, model_name, positive, words
from benchmarks.contenders import step_vjp
from benchmarks.contenders.contender import Unavailable, place
from benchmarks.models import MODELS
from benchmarks.models.model import as_dtype
from benchmarks.rounds import for_seconds, in_turns

NAMES = "metagrad", "by hand"
TARGET = 1.05
EQUAL = 1e-5


def measure(name: str, seconds: float, most_rounds: int) -> dict:
    """One row of the record."""
    model = MODELS[name]()
    problem = place(model, steps=3)
    operands = step_vjp.operands(model, problem)
    programs = {
        "metagrad": step_vjp.by_metagrad(problem, operands).compile(),
        "by hand": step_vjp.by_hand(model, operands).compile(),
    }
    exact = reference(model, operands)
    results = {who: program(*operands) for who, program in programs.items()}
    errors = {who: error(result, exact) for who, result in results.items()}
    difference = error(results["metagrad"], jax.tree.map(np.asarray, results["by hand"]))
    if difference > EQUAL:
        raise ValueError(f"{name}: the two step VJPs differ by {difference:.0e}")
    bound = {who: functools.partial(p, *operands) for who, p in programs.items()}
    times = in_turns(bound, for_seconds(seconds, fewest=3, most=most_rounds))
    memory = {
        who: program.memory_analysis().temp_size_in_bytes for who, program in programs.items()
    }
    medians = {who: statistics.median(taken) for who, taken in times.items()}
    return {
        "model": name,
        "description": model.description,
        "rounds": len(times["metagrad"]),
        "seconds": medians,
        "memory_bytes": memory,
        "errors": errors,
        "difference": difference,
        "time_ratio": medians["metagrad"] / medians["by hand"],
        "memory_ratio": memory["metagrad"] / memory["by hand"],
        "times": times,
    }


def reference(model, operands):
    """`jax.vjp` of the step in f64, reverse over reverse, from the same numbers.

    It computes the inner gradient itself.
    """
    with jax.enable_x64(True):
        program = jax.jit(
            lambda *args: step_vjp.vjp_of(lambda _: model.make_step(jax), step_vjp.Operands(*args))
        )
        return jax.tree.map(np.asarray, program(*as_dtype(operands, np.float64)))


def error(results, exact) -> float:
    """The largest deviation of any entry of any leaf, relative to the leaf's largest entry."""
    deviations = [
        float(np.max(np.abs(np.asarray(leaf, np.float64) - wanted)) / np.max(np.abs(wanted)))
        for leaf, wanted in zip(jax.tree.leaves(results), jax.tree.leaves(exact), strict=True)
        if np.any(wanted)
    ]
    return max(deviations)


def table(rows: list[dict]) -> Table:
    rich_table = Table(
        title="vector-Jacobian product of one step, its inner gradient given", title_justify="left"
    )
    for heading in (
        "model",
        "metagrad, ms",
        "by hand, ms",
        "time ratio",
        "metagrad, MiB",
        "by hand, MiB",
        "memory ratio",
        "error",
        "difference",
    ):
        rich_table.add_column(heading, justify="left" if heading == "model" else "right")
    for row in rows:
        seconds, memory = (
            [row[what][who] for who in NAMES] for what in ("seconds", "memory_bytes")
        )
        rich_table.add_row(
            row["model"],
            *(f"{value * 1e3:.2f}" for value in seconds),
            f"{row['time_ratio']:.2f}",
            *(f"{value / 2**20:.2f}" for value in memory),
            f"{row['memory_ratio']:.2f}",
            f"{row['errors']['metagrad']:.0e}",
            f"{row['difference']:.0e}",
        )
    return rich_table


def main(argv: list[str] | None = None) -> int:
    top = argparse.ArgumentParser(
        prog="python -m benchmarks.step_vjp", description=__doc__.split(": ", 1)[1].split("\n")[0]
    )
    top.add_argument(
        "--models",
        type=words(model_name),
        default=tuple(MODELS),
        help=f"names between commas (default: {','.join(MODELS)})",
    )
    top.add_argument(
        "--seconds",
        type=float,
        default=8,
        help="time for the rounds of one model (default: %(default)s)",
    )
    top.add_argument(
        "--repeat", type=positive, default=500, help="most rounds (default: %(default)s)"
    )
    top.add_argument(
        "--out",
        metavar="DIR",
        type=Path,
        default=RESULTS,
        help="folder for the JSON (default: results, beside this program)",
    )
    arguments = top.parse_args(argv)
    console = Console() if sys.stdout.isatty() else Console(width=120)
    path = arguments.out / "step_vjp.json"
    written = record.provenance(
        "python -m benchmarks.step_vjp " + shlex.join(sys.argv[1:] if argv is None else argv)
    )
    written["results"] = []
    for name in track(arguments.models, "step VJPs", console=console, transient=True):
        try:
            written["results"].append(measure(name, arguments.seconds, arguments.repeat))
        except Unavailable as reason:
            console.print(str(reason), markup=False)
            return 1
        # After each model, so that a run that is stopped leaves what it has.
        record.write(path, written)
    console.print(table(written["results"]))
    over = [
        row["model"]
        for row in written["results"]
        if max(row["time_ratio"], row["memory_ratio"]) > TARGET
    ]
    console.print(f"above {TARGET} in time or memory: {', '.join(over) or 'none'}")
    console.print(f"written: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
