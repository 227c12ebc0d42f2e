"""`python -m benchmarks.remat_frontier`: memory and time of one step's VJP, by what it keeps.

A GPT, its layers in a scan or in a Python loop. The rows are metagrad's option `remat`, policies of
`jax.checkpoint` that are written into the model, and what is written by hand in JAX: reverse over
reverse, and MixFlow-MG's mixed mode, each without and with `jax.checkpoint` around a layer. All are
programs with the same operands and results (contenders/step_vjp.py), run in turns in one process.
Memory is what XLA says they need beyond operands and results. The results must be equal up to
rounding.
"""

from __future__ import annotations

import argparse
import functools
import shlex
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks import record
from benchmarks.__main__ import RESULTS, positive
from benchmarks.contenders import step_vjp
from benchmarks.contenders.contender import place
from benchmarks.models import gpt
from benchmarks.plot import draw_frontier
from benchmarks.rounds import for_seconds, in_turns, median_ratio
from benchmarks.step_vjp import EQUAL, error

POLICIES = jax.checkpoint_policies
UNIT = "MixFlow by hand, checkpoint"


class Row(NamedTuple):
    """A contender.

    Attributes:
      name: for the table.
      build: `build(model, problem, operands)` lowers its program.
      around: what the model puts around a layer; None: nothing.
      group: around how many layers together, where they are in a loop.
    """

    name: str
    build: Callable[[Any, Any, Any], Any]
    around: Callable | None = None
    group: int = 1


def by_metagrad(remat: str) -> Callable:
    return lambda model, problem, operands: step_vjp.by_metagrad(problem, operands, remat=remat)


def by_hand(model, problem, operands):
    return step_vjp.by_hand(model, operands)


def by_jax(model, problem, operands):
    return step_vjp.by_jax(model, operands)


def rows(scanned: bool) -> list[Row]:
    """Those for layers in a scan, or in a loop."""
    checkpoint = functools.partial(jax.checkpoint, prevent_cse=not scanned)
    with_policy = lambda policy: functools.partial(checkpoint, policy=policy)
    common = [
        Row("metagrad none", by_metagrad("none")),
        Row("metagrad blocks", by_metagrad("blocks")),
        Row(
            "metagrad none, dots_saveable", by_metagrad("none"), with_policy(POLICIES.dots_saveable)
        ),
        Row("JAX", by_jax),
        Row("JAX, checkpoint", by_jax, checkpoint),
        Row("MixFlow by hand", by_hand),
        Row(UNIT, by_hand, checkpoint),
    ]
    if scanned:
        saveable = with_policy(POLICIES.dots_with_no_batch_dims_saveable)
        return [
            *common,
            Row("metagrad none, dots_with_no_batch_dims_saveable", by_metagrad("none"), saveable),
            Row("MixFlow by hand, dots_saveable", by_hand, with_policy(POLICIES.dots_saveable)),
        ]
    return [
        *common,
        Row("metagrad none, groups of 2", by_metagrad("none"), checkpoint, 2),
    ]


def measure(scanned: bool, layers: int, tokens: int, seconds: float, console: Console) -> dict:
    """The record of one model."""
    plain = gpt.model(layers, scanned, tokens=tokens)
    problem = place(plain, steps=2)
    operands = step_vjp.operands(plain, problem)
    programs = {}
    for row in track(rows(scanned), "compiling", console=console, transient=True):
        model = gpt.model(layers, scanned, around=row.around, group=row.group, tokens=tokens)
        programs[row.name] = row.build(model, place(model, steps=2), operands).compile()
    results = {
        name: jax.tree.map(np.asarray, program(*operands)) for name, program in programs.items()
    }
    for name, result in results.items():
        if (difference := error(result, results[UNIT])) > EQUAL:
            raise ValueError(f"{name} differs from {UNIT} by {difference:.0e}")
    bound = {name: functools.partial(p, *operands) for name, p in programs.items()}
    times = in_turns(bound, for_seconds(seconds, fewest=5))
    medians = {name: statistics.median(taken) for name, taken in times.items()}
    memory = {name: p.memory_analysis().temp_size_in_bytes for name, p in programs.items()}
    return {
        "model": f"{layers} layers in a {'scan' if scanned else 'loop'}",
        "description": plain.description,
        "rounds": len(times[UNIT]),
        "rows": [
            {
                "contender": name,
                "seconds": medians[name],
                "memory_bytes": memory[name],
                "time_ratio": median_ratio(times[name], times[UNIT]),
                "memory_ratio": memory[name] / memory[UNIT],
            }
            for name in programs
        ],
    }


def table(result: dict) -> Table:
    rich_table = Table(title=result["description"], title_justify="left")
    for heading in ("", "MiB", "of the unit", "ms", "of the unit"):
        rich_table.add_column(heading, justify="left" if not heading else "right")
    for row in sorted(result["rows"], key=lambda row: row["memory_bytes"]):
        rich_table.add_row(
            row["contender"] + (" (the unit)" if row["contender"] == UNIT else ""),
            f"{row['memory_bytes'] / 2**20:.1f}",
            f"{row['memory_ratio']:.2f}",
            f"{row['seconds'] * 1e3:.1f}",
            f"{row['time_ratio']:.2f}",
        )
    return rich_table


def main(argv: list[str] | None = None) -> int:
    top = argparse.ArgumentParser(
        prog="python -m benchmarks.remat_frontier",
        description=__doc__.split(": ", 1)[1].split("\n")[0],
    )
    top.add_argument("--layers", type=positive, default=4, help="default: %(default)s")
    top.add_argument("--tokens", type=positive, default=128, help="default: %(default)s")
    top.add_argument(
        "--seconds", type=float, default=15, help="of the rounds of a model (default: %(default)s)"
    )
    top.add_argument(
        "--out",
        metavar="DIR",
        type=Path,
        default=RESULTS,
        help="folder for the JSON and the plot (default: results, beside this program)",
    )
    arguments = top.parse_args(argv)
    console = Console() if sys.stdout.isatty() else Console(width=120)
    written = record.provenance(
        "python -m benchmarks.remat_frontier " + shlex.join(sys.argv[1:] if argv is None else argv)
    )
    written["results"] = []
    for scanned in (True, False):
        result = measure(scanned, arguments.layers, arguments.tokens, arguments.seconds, console)
        written["results"].append(result)
        record.write(arguments.out / "remat_frontier.json", written)
        console.print(table(result))
    draw_frontier(written["results"], arguments.out / "remat_frontier.png")
    console.print(f"written: {arguments.out / 'remat_frontier.json'} and .png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
