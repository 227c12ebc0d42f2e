"""`python -m benchmarks.compile_time`: how long metagrad takes to lower and compile.

It does so for several T and k, and compares with jitting one step's VJP. A program that holds one
copy of the step and one of its VJP takes as long for 4096 steps as for 64. Nothing is run and no
data is made: shapes are enough. The compilation cache is off except for two rows: lowering (without
XLA) into an empty cache, and again with what is then in it.
"""

from __future__ import annotations

import argparse
import functools
import os
import shlex
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks import record
from benchmarks.__main__ import RESULTS, arity, model_name, positive, words
from benchmarks.contenders.contender import Problem, Unavailable
from benchmarks.contenders.metagrad_schedules import imported, metagradient
from benchmarks.models import MODELS, RUNS
from benchmarks.models.model import Model


def shapes(model: Model, steps: int) -> Problem:
    """The problem as shapes and dtypes."""
    abstract = lambda tree: jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)
    batches = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((steps, *x.shape[1:]), x.dtype), model.draw_batches(1)
    )
    return Problem(
        model,
        steps,
        abstract(model.state0),
        abstract(model.meta),
        batches,
        abstract(model.held_out),
    )


def compile_step_vjp(model: Model) -> None:
    """Compiles `jax.jit` of `jax.vjp` of one step, with respect to state and metaparameters.

    The time that this takes is what metagrad's is compared with.
    """
    step = model.make_step(jax)
    problem = shapes(model, 1)
    batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), problem.batches)
    leaves, structure = jax.tree.flatten(problem.state0)
    is_float = [jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in leaves]
    floats = [leaf for leaf, chosen in zip(leaves, is_float) if chosen]
    rest = [leaf for leaf, chosen in zip(leaves, is_float) if not chosen]

    def step_vjp(floats, rest, meta, batch, floats_bar):
        def floats_after(floats, meta):
            sources = iter(floats), iter(rest)
            state = jax.tree.unflatten(
                structure, [next(sources[0] if chosen else sources[1]) for chosen in is_float]
            )
            return [
                leaf
                for leaf, chosen in zip(jax.tree.leaves(step(state, meta, batch)), is_float)
                if chosen
            ]

        return jax.vjp(floats_after, floats, meta)[1](floats_bar)

    jax.jit(step_vjp).lower(floats, rest, problem.meta, batch, floats).compile()


def lower_metagradient(model: Model, steps: int, k: int):
    import metagrad

    problem = shapes(model, steps)
    return metagradient(problem, metagrad.LazyKary(k)).lower(*problem.arguments)


def compile_metagradient(model: Model, steps: int, k: int) -> None:
    lower_metagradient(model, steps, k).compile()


def lower_cached(model: Model, steps: int, k: int, folder: str, *, empty: bool) -> None:
    if empty:
        shutil.rmtree(folder, ignore_errors=True)
    os.environ |= {"METAGRAD_CACHE": "1", "METAGRAD_CACHE_DIR": folder}
    try:
        lower_metagradient(model, steps, k)
    finally:
        os.environ["METAGRAD_CACHE"] = "0"


def seconds(build: Callable[[], None]) -> float:
    jax.clear_caches()
    start = time.perf_counter()
    build()
    return time.perf_counter() - start


def lowering_and_xla(lower: Callable[[], Any]) -> tuple[float, float]:
    """Seconds of `lower()`, which gives a `Lowered`, and of compiling that."""
    jax.clear_caches()
    start = time.perf_counter()
    lowered = lower()
    middle = time.perf_counter()
    lowered.compile()
    return middle - start, time.perf_counter() - middle


def main(argv: list[str] | None = None) -> int:
    top = argparse.ArgumentParser(
        prog="python -m benchmarks.compile_time",
        description=__doc__.split(": ", 1)[1].split("\n")[0],
    )
    top.add_argument(
        "--models",
        type=words(model_name),
        default=RUNS,
        help=f"names between commas, of {', '.join(MODELS)} (default: {','.join(RUNS)})",
    )
    top.add_argument(
        "--steps",
        type=words(positive),
        default=(64, 4096),
        help="numbers of training steps T (default: 64,4096)",
    )
    top.add_argument(
        "--k",
        type=words(arity),
        default=(2, 4, 16),
        help="arities of the lazy k-ary tree (default: 2,4,16)",
    )
    top.add_argument("--repeat", type=positive, default=3, help="rounds (default: %(default)s)")
    top.add_argument(
        "--out",
        metavar="DIR",
        type=Path,
        default=RESULTS,
        help="folder for the JSON (default: results, beside this program)",
    )
    arguments = top.parse_args(argv)
    console = Console() if sys.stdout.isatty() else Console(width=120)
    try:
        imported()
    except Unavailable as reason:
        console.print(str(reason), markup=False)
        return 1
    written = record.provenance(
        "python -m benchmarks.compile_time " + shlex.join(sys.argv[1:] if argv is None else argv)
    )
    written["results"] = []
    os.environ["METAGRAD_CACHE"] = "0"
    folder = tempfile.mkdtemp(prefix="metagrad-compile-time-")
    for name in arguments.models:
        model = MODELS[name]()
        cases: dict = {("step VJP", None, None): functools.partial(compile_step_vjp, model)}
        for steps in arguments.steps:
            for k in arguments.k:
                cases[f"metagrad LazyKary({k})", steps, k] = functools.partial(
                    compile_metagradient, model, steps, k
                )
        steps, k = arguments.steps[0], arguments.k[0]
        for heading, empty in (
            ("lowering alone, first time", True),
            ("lowering alone, from the cache", False),
        ):
            cases[heading, steps, k] = functools.partial(
                lower_cached, model, steps, k, folder, empty=empty
            )
        # Unmeasured: what starts once in a process.
        compile_metagradient(model, 2, 2)
        rounds = [(case, build) for _ in range(arguments.repeat) for case, build in cases.items()]
        times: dict = {case: [] for case in cases}
        for case, build in track(rounds, f"{name}: compiling", console=console, transient=True):
            times[case].append(seconds(build))
        rows = [
            {
                "program": case[0],
                "steps": case[1],
                "k": case[2],
                "times": taken,
                "seconds": statistics.median(taken),
            }
            for case, taken in times.items()
        ]
        unit = rows[0]["seconds"]
        shown = Table(
            title=f"{name}: time to compile, median of {arguments.repeat}", title_justify="left"
        )
        for heading in ("program", "T", "time", "x step VJP"):
            shown.add_column(heading, justify="left" if heading == "program" else "right")
        for row in rows:
            row["ratio"] = row["seconds"] / unit
            shown.add_row(
                row["program"],
                "" if row["steps"] is None else str(row["steps"]),
                f"{row['seconds']:.2f} s",
                f"{row['ratio']:.2f}",
            )
        console.print(shown)
        written["results"].append({"model": name, "description": model.description, "rows": rows})
        record.write(arguments.out / "compile_time.json", written)
    shutil.rmtree(folder, ignore_errors=True)
    console.print(f"written: {arguments.out / 'compile_time.json'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
