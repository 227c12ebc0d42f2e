"""`python -m benchmarks.streamed_overhead`: what the host's part of a streamed run costs.

Four runs of the same training take turns in one process, in an order that is reversed from round to
round:

- streamed: from a Stream, with the plan that is chosen;
- kernels: the same programs called in the same order with the same batches, and nothing else: no
  stream, no slots, no reports. What the streamed run takes beyond it is the host's part;
- verified: the streamed run with verify="replay";
- fused: the one program with all batches, of schedule Binomial(24).

Ratios are those of the times of one round, and the medians over the rounds are reported. "driver"
is the processor time of the thread that walks the plan. It includes XLA's work where a program is
run in the thread that calls it, so it is a bound.

It prints a table and writes results/streamed_overhead.json.
"""

from __future__ import annotations

import argparse
import shlex
import statistics
import sys
import time
from collections.abc import Callable
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
from benchmarks.contenders.contender import place
from benchmarks.models import MODELS
from metagrad.runtime.executors.walk import Kind, actions, bounds

EQUAL = 1e-5


def walker(streamed: Any, arguments: tuple, batches: Any) -> Callable[[], list]:
    """A function that calls the programs of a streamed run, one after the other.

    Args:
      streamed: the lowered metagradient.
      arguments: (state0, meta, held_out).
      batches: stacked arrays.
    """
    program, plan = streamed.program, streamed.plan
    kernels, layout = program.kernels(plan.segment_slots), program.layout
    state0, meta, outer = (jax.tree.leaves(tree) for tree in arguments)
    captured = program.captured.arrays_beside([*state0, *meta, *outer])
    walk = actions(plan.outer)
    segments = [
        [_padded(leaf, *bounds(i, plan.segment, plan.steps), plan.segment) for leaf in batches]
        for i in range(plan.outer.steps)
    ]

    def run() -> list:
        state = [state0[i] for i in layout.changed]
        meta_bar: list = list(kernels.meta_bar_zeros)
        state_bar: list = []
        slots: dict[int, list] = {}
        for action in walk:
            whole = layout.whole_state(state0, state)
            _, count = bounds(max(action.segment, 0), plan.segment, plan.steps)
            match action.kind:
                case Kind.SAVE:
                    slots[action.slot] = state
                case Kind.LOAD:
                    state = slots[action.slot]
                case Kind.ADVANCE:
                    state, _, _ = kernels.run_advance(
                        whole, meta, segments[action.segment], captured, count
                    )
                case Kind.OUTER:
                    _, state_bar = kernels.run_outer_vjp(whole, outer, captured)
                case Kind.REVERSE:
                    state_bar, meta_bar, _, _ = kernels.run_reverse(
                        whole, meta, segments[action.segment], captured, count, state_bar, meta_bar
                    )
            # As the executor does: the queue of the device is bounded.
            jax.block_until_ready(state)
        return meta_bar

    return run


def _padded(leaf: Any, first: int, count: int, length: int) -> np.ndarray:
    rows = np.asarray(leaf)[first : first + count]
    return np.concatenate([rows, np.zeros((length - count, *rows.shape[1:]), rows.dtype)])


def measure(name: str, steps: int, rounds: int) -> dict:
    """One model's row of the record."""
    problem = place(MODELS[name](), steps)
    batches = jax.tree.map(np.asarray, problem.batches)
    stream = metagrad.Stream(batches)
    step = metagrad.compile(problem.model.make_step(metagrad))
    outer = problem.model.outer
    arguments = problem.state0, problem.meta, stream, problem.held_out
    lowered = step.metagradient(outer).lower(*arguments)
    streamed = lowered.compile()
    verified = step.metagradient(outer, verify="replay").lower(*arguments).compile()
    of_arrays = (problem.state0, problem.meta, problem.batches, problem.held_out)
    mg = step.metagradient(outer, schedule=metagrad.Binomial(24), runtime="fused")
    fused = mg.lower(*of_arrays).compile()
    runs: dict[str, Callable[[], Any]] = {
        "streamed": lambda: streamed(*arguments).grad,
        "kernels": walker(
            lowered,
            (problem.state0, problem.meta, (problem.held_out,)),
            jax.tree.leaves(batches),
        ),
        "verified": lambda: verified(*arguments).grad,
        "fused": lambda: fused(*of_arrays).grad,
    }
    gradients = {key: np.asarray(jax.tree.leaves(run())[0]) for key, run in runs.items()}
    scale = np.abs(gradients["fused"]).max()
    errors = {k: float(np.abs(g - gradients["fused"]).max() / scale) for k, g in gradients.items()}
    if max(errors.values()) > EQUAL:
        raise ValueError(f"{name}: the gradients differ from the fused program's: {errors}")
    times: dict[str, list[float]] = {key: [] for key in runs}
    driver: list[float] = []
    for index in range(rounds):
        for key in runs if index % 2 == 0 else reversed(runs):
            begun, processor = time.perf_counter(), time.thread_time()
            jax.block_until_ready(runs[key]())
            times[key].append(time.perf_counter() - begun)
            if key == "streamed":
                driver.append((time.thread_time() - processor) / times[key][-1])
    plan = lowered.plan
    # A VJP with its part of the replay counts as one step.
    passes = plan.outer.advances * plan.segment + steps
    ratio = lambda a, b: statistics.median(x / y for x, y in zip(times[a], times[b], strict=True))
    return {
        "model": name,
        "description": problem.model.description,
        "steps": steps,
        "segment": plan.segment,
        "slots": plan.outer.state_slots,
        "streamed_seconds": statistics.median(times["streamed"]),
        "seconds_per_step": statistics.median(times["streamed"]) / passes,
        "host": ratio("streamed", "kernels") - 1,
        "driver": statistics.median(driver),
        "verify": ratio("verified", "streamed") - 1,
        "of_fused": ratio("streamed", "fused"),
        "error": max(errors.values()),
        "times": times,
    }


def table(rows: list[dict]) -> Table:
    rich_table = Table(title="The host's part of a streamed run", title_justify="left")
    headings = ("model", "T", "L", "slots", "ms a step", "host", "driver", "verify", "of fused")
    for heading in headings:
        rich_table.add_column(heading, justify="left" if heading == "model" else "right")
    for row in rows:
        rich_table.add_row(
            row["model"],
            str(row["steps"]),
            str(row["segment"]),
            str(row["slots"]),
            f"{row['seconds_per_step'] * 1e3:.2f}",
            f"{row['host']:+.1%}",
            f"{row['driver']:.1%}",
            f"{row['verify']:+.1%}",
            f"{row['of_fused']:.2f}",
        )
    return rich_table


def main(argv: list[str] | None = None) -> int:
    top = argparse.ArgumentParser(
        prog="python -m benchmarks.streamed_overhead",
        description=__doc__.split(": ", 1)[1].split("\n")[0],
    )
    top.add_argument(
        "--models", type=words(model_name), default=("mlp",), help="names between commas"
    )
    top.add_argument("--steps", type=positive, default=64, help="T (default: %(default)s)")
    top.add_argument("--repeat", type=positive, default=20, help="rounds (default: %(default)s)")
    top.add_argument(
        "--out",
        metavar="DIR",
        type=Path,
        default=RESULTS,
        help="folder for the JSON (default: results, beside this program)",
    )
    arguments = top.parse_args(argv)
    console = Console() if sys.stdout.isatty() else Console(width=120)
    path = arguments.out / "streamed_overhead.json"
    written = record.provenance(
        "python -m benchmarks.streamed_overhead "
        + shlex.join(sys.argv[1:] if argv is None else argv)
    )
    written["results"] = []
    for name in track(arguments.models, "streamed", console=console, transient=True):
        written["results"].append(measure(name, arguments.steps, arguments.repeat))
        record.write(path, written)
    console.print(table(written["results"]))
    console.print(f"written: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
