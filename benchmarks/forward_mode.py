"""`python -m benchmarks.forward_mode`: forward mode against reverse mode and `jax.jacfwd`, by K.

The metaparameters are K pieces of a schedule that scales each update: step t has factor
t K / T of them. Three programs take the gradient of the held-out loss in them:

    forward    metagradient(mode="forward")
    reverse    metagradient(), with Auto()
    jacfwd     jax.jacfwd of the run as a lax.scan of the plain step, with jax.grad

They run in turn in one process, in an order that is reversed from round to round. A ratio is that
of the two times of one round, and its median is reported. Memory is XLA's `temp_size_in_bytes`. All
gradients must be the same up to rounding. The first row has one learning rate of a small regression
over 100,000 steps.
"""

from __future__ import annotations

import argparse
import functools
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

import metagrad
from benchmarks import record
from benchmarks.__main__ import RESULTS, positive, words
from benchmarks.contenders.contender import place
from benchmarks.models import gpt, mlp
from benchmarks.rounds import in_turns, median_ratio

EQUAL = 1e-3
"""Of gradients in f32 through 64 steps, relative to the largest entry."""
MODELS: dict[str, Callable] = {"mlp": mlp.model, "gpt1": functools.partial(gpt.model, layers=1)}
STEPS = {"mlp": 64, "gpt1": 16}
"""T. A step of the transformer takes longer, and ratios of times do not depend on T."""
LONG = 100_000


def scaled_step(make_step: Callable, weights: Any, steps: int, autodiff: Any) -> Callable:
    """A model's step, whose update of the parameters is scaled by a piece of a schedule."""
    step = make_step(autodiff)

    def scaled(state, pieces, batch):
        inputs, t = batch
        params, moments = step(state, weights, inputs)
        factor = pieces[t * pieces.shape[0] // steps]
        return jax.tree.map(lambda new, old: old + factor * (new - old), params, state[0]), moments

    return scaled


def programs(name: str, steps: int, count: int) -> tuple[str, dict[str, Any], tuple]:
    """Description, the compiled programs, and what they are called with."""
    problem = place(MODELS[name](), steps)
    model = problem.model
    make = functools.partial(scaled_step, model.make_step, problem.meta, steps)
    batches = problem.batches, jnp.arange(steps)
    arguments = problem.state0, jnp.ones(count), batches, problem.held_out
    compiled = _compiled(make, model.outer, arguments)
    return model.description, compiled, arguments


def long_run() -> tuple[str, dict[str, Any], tuple]:
    """One learning rate over many steps of a small model."""
    random = np.random.default_rng(0)
    xs, ys = random.normal(size=(LONG, 4, 3)), random.normal(size=(LONG, 4))

    def make(autodiff: Any) -> Callable:
        def step(w, rate, batch):
            x, y = batch
            return w - rate * autodiff.grad(lambda w: jnp.mean((jnp.tanh(x @ w) - y) ** 2))(w)

        return step

    arguments = jnp.ones(3), jnp.float32(0.01), (jnp.float32(xs), jnp.float32(ys)), jnp.float32(1)
    outer = lambda w, scale: scale * jnp.sum(w**2)
    description = f"tanh regression in 3 numbers, batch 4, {LONG:,} steps"
    return description, _compiled(make, outer, arguments), arguments


def _compiled(make: Callable, outer: Callable, arguments: tuple) -> dict[str, Any]:
    step, plain = metagrad.compile(make(metagrad)), make(jax)
    compiled = {
        mode: step.metagradient(outer, mode=mode, check_nans=False).lower(*arguments).compile()
        for mode in ("forward", "reverse")
    }

    def run(meta, state0, batches, held_out):
        final, _ = jax.lax.scan(lambda s, batch: (plain(s, meta, batch), None), state0, batches)
        return outer(final, held_out)

    state0, meta, *rest = arguments
    by_jax = jax.jit(jax.jacfwd(run)).lower(meta, state0, *rest).compile()
    return compiled | {"jacfwd": by_jax}


def _call(name: str, program: Any, arguments: tuple) -> Any:
    state0, meta, *rest = arguments
    if name == "jacfwd":
        return program(meta, state0, *rest)
    return program(*arguments).grad


def measure(
    of: tuple[str, dict[str, Any], tuple], rounds: int, clock: Callable[[], float]
) -> dict[str, Any]:
    """One row of the record."""
    description, compiled, arguments = of
    gradients = {name: np.asarray(_call(name, p, arguments)) for name, p in compiled.items()}
    scale = np.abs(gradients["jacfwd"]).max()
    errors = {
        name: float(np.abs(g - gradients["jacfwd"]).max() / scale) for name, g in gradients.items()
    }
    if max(errors.values()) > EQUAL:
        raise ValueError(f"{description}: the gradients differ: {errors}")
    bound = {name: functools.partial(_call, name, p, arguments) for name, p in compiled.items()}
    times = in_turns(bound, range(rounds), clock)
    memory = {name: p.memory_analysis().temp_size_in_bytes for name, p in compiled.items()}
    return {
        "description": description,
        "seconds": {name: statistics.median(each) for name, each in times.items()},
        "memory_bytes": memory,
        "errors": errors,
        "time_of_reverse": median_ratio(times["forward"], times["reverse"]),
        "time_of_jacfwd": median_ratio(times["forward"], times["jacfwd"]),
        "times": times,
    }


def table(rows: list[dict[str, Any]]) -> Table:
    rich_table = Table(title="Forward mode", title_justify="left")
    headings = "model", "T", "K", "forward s", "of reverse", "of jacfwd", "MiB", "reverse", "jacfwd"
    for heading in headings:
        rich_table.add_column(heading, justify="left" if heading == "model" else "right")
    for row in rows:
        rich_table.add_row(
            row["model"],
            f"{row['steps']:,}",
            str(row["directions"]),
            f"{row['seconds']['forward']:.3f}",
            f"{row['time_of_reverse']:.2f}",
            f"{row['time_of_jacfwd']:.2f}",
            *(f"{row['memory_bytes'][name] / 2**20:.2f}" for name in row["memory_bytes"]),
        )
    return rich_table


def main(argv: list[str] | None = None) -> int:
    top = argparse.ArgumentParser(
        prog="python -m benchmarks.forward_mode",
        description=(__doc__ or "").split(": ", 1)[1].split("\n")[0],
    )
    top.add_argument(
        "--models",
        type=words(lambda name: name),
        default=tuple(MODELS),
        help=f"names between commas, of {', '.join(MODELS)} (default: all)",
    )
    top.add_argument("--steps", type=positive, help="T (default: 64 of mlp, 16 of gpt1)")
    top.add_argument(
        "--directions",
        type=words(positive),
        default=(1, 4, 16),
        help="K: numbers between commas (default: 1,4,16)",
    )
    top.add_argument("--repeat", type=positive, default=3, help="rounds (default: %(default)s)")
    top.add_argument(
        "--cpu-time",
        action="store_true",
        help="count the process's seconds on the processor, where others work on the machine too",
    )
    top.add_argument(
        "--out",
        metavar="DIR",
        type=Path,
        default=RESULTS,
        help="folder for the JSON (default: results, beside this program)",
    )
    arguments = top.parse_args(argv)
    if unknown := set(arguments.models) - set(MODELS):
        top.error(f"--models: there is no {', '.join(sorted(unknown))}")
    console = Console() if sys.stdout.isatty() else Console(width=120)
    path = arguments.out / "forward_mode.json"
    written = record.provenance(
        "python -m benchmarks.forward_mode " + shlex.join(sys.argv[1:] if argv is None else argv)
    )
    clock = time.process_time if arguments.cpu_time else time.perf_counter
    written |= {"clock": clock.__name__, "results": []}
    jobs = [(name, count) for name in arguments.models for count in arguments.directions]
    for name, count in track([("long", 1), *jobs], "forward", console=console, transient=True):
        is_long = name == "long"
        steps = LONG if is_long else arguments.steps or STEPS[name]
        of = long_run() if is_long else programs(name, steps, count)
        row = measure(of, arguments.repeat, clock)
        written["results"].append({"model": name, "steps": steps, "directions": count} | row)
        # After each row, so that a run that is stopped leaves what it has.
        record.write(path, written)
    console.print(table(written["results"]))
    console.print(f"written: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
