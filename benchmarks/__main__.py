"""`python -m benchmarks`: times the contenders on the models.

It prints a table per run, and writes JSON and a plot. See README.md.
"""

from __future__ import annotations

import argparse
import fnmatch
import functools
import os
import re
import shlex
import sys
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from benchmarks import record
from benchmarks.contenders import PLAIN, field
from benchmarks.contenders.contender import place
from benchmarks.measure import Limits, measure
from benchmarks.models import MODELS, RUNS
from benchmarks.reference import reference
from benchmarks.table import table

RESULTS = Path(__file__).parent / "results"
QUICK = (
    "unrolled",
    "mixflow",
    "equinox(24)",
    "replay(*",
    "metagrad LazyKary*",
    "metagrad Binomial(24)",
)


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


def words(kind=str):
    """An argparse type: words between commas; a comma in brackets belongs to its word."""

    def parse(text: str) -> tuple:
        return tuple(kind(part.strip()) for part in re.split(r",(?![^(]*\))", text))

    return parse


def model_name(text: str) -> str:
    if text not in MODELS:
        raise argparse.ArgumentTypeError(f"no model {text!r}; there are {', '.join(MODELS)}")
    return text


def arity(text: str) -> int:
    if positive(text) < 2:
        raise argparse.ArgumentTypeError("a tree's k is at least 2")
    return int(text)


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Times metagradients of whole training runs."
    )
    top.add_argument(
        "--models",
        type=words(model_name),
        default=RUNS,
        help=f"names between commas, of {', '.join(MODELS)} (default: {','.join(RUNS)})",
    )
    top.add_argument(
        "--steps", type=words(positive), help="numbers of training steps T (default: 64,256)"
    )
    top.add_argument(
        "--contenders",
        type=words(),
        help="names or patterns between commas, such as 'mixflow,metagrad*' (default: all)",
    )
    top.add_argument("--k", type=words(arity), help="arities of the lazy k-ary trees (default: 16)")
    top.add_argument("--repeat", type=positive, help="most rounds (default: 7)")
    top.add_argument(
        "--budget",
        metavar="SECONDS",
        type=float,
        help="time for the rounds of one run, where that allows more than three of them "
        "(default: 45)",
    )
    top.add_argument(
        "--memory-limit",
        metavar="GIB",
        type=float,
        default=12.0,
        help="what needs more is not run (default: %(default)g)",
    )
    top.add_argument(
        "--quick",
        action="store_true",
        help="a few contenders, T = 16, three rounds, unless said otherwise",
    )
    top.add_argument(
        "--out",
        metavar="DIR",
        type=Path,
        default=RESULTS,
        help="folder for JSON and plot (default: results, beside this program)",
    )
    return top


def main(argv: list[str] | None = None) -> int:
    top = parser()
    arguments = top.parse_args(argv)
    quick = arguments.quick
    steps = arguments.steps or ((16,) if quick else (64, 256))
    ks = arguments.k or ((4,) if quick else (16,))
    limits = Limits(
        most_rounds=arguments.repeat or (3 if quick else 7),
        fewest_rounds=min(arguments.repeat or 3, 3),
        seconds=arguments.budget or (5 if quick else 45),
        memory_bytes=int(arguments.memory_limit * 2**30),
    )
    patterns = arguments.contenders or (QUICK if quick else ("*",))
    problems = [
        (name, count, _chosen(field(count, ks), patterns, top))
        for name in arguments.models
        for count in steps
    ]

    console = Console() if sys.stdout.isatty() else Console(width=120)
    path = arguments.out / ("quick.json" if quick else "benchmark.json")
    written = record.provenance(
        "python -m benchmarks " + shlex.join(sys.argv[1:] if argv is None else argv)
    )
    written |= {"limits": vars(limits), "results": []}
    device = written["device"]
    console.print(
        f"{device['name']}, {device['cores']} cores, jax {written['versions']['jax']}, "
        f"metagrad {written['versions']['metagrad']}"
    )
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        everything = progress.add_task("all runs", total=len(problems))
        now = progress.add_task("")
        _start_compilers()
        for name, count, contenders in problems:
            tell = functools.partial(_tell, progress, now, f"{name}, T = {count}")
            tell("reference in f64", 0, None)
            model = MODELS[name]()
            exact = reference(model, count)
            problem = place(model, count)
            rows = measure(problem, contenders, exact, limits, tell)
            console.print(table(problem, rows))
            written["results"].append(
                {
                    "model": name,
                    "description": model.description,
                    "steps": count,
                    "state_bytes": problem.state_bytes,
                    "held_out_loss": exact.value,
                    "rows": [row.jsonable() for row in rows],
                }
            )
            # After each run, so that one that is stopped leaves what it has.
            record.write(path, written)
            progress.advance(everything)
    console.print(f"written: {path}")
    _draw(written["results"], path.with_suffix(".png"), console)
    return 0


def _tell(
    progress: Progress, task: TaskID, title: str, what: str, done: int, total: int | None
) -> None:
    progress.update(task, description=f"{title}: {what}", completed=done, total=total)


def _chosen(contenders, patterns, top):
    chosen = [
        c
        for c in contenders
        if c.name == PLAIN or any(fnmatch.fnmatchcase(c.name, pattern) for pattern in patterns)
    ]
    unknown = [
        p
        for p in patterns
        if p != PLAIN and not any(fnmatch.fnmatchcase(c.name, p) for c in contenders)
    ]
    if unknown:
        top.error(
            f"argument --contenders: nothing is called {unknown[0]!r}; "
            f"there are {', '.join(c.name for c in contenders)}"
        )
    return chosen


def _start_compilers() -> None:
    """Starts JAX's backend and metagrad's Enzyme worker, and switches metagrad's cache off.

    What starts once in a process is not a contender's compile time, and a program in a cache would
    not be compiled.
    """
    os.environ["METAGRAD_CACHE"] = "0"
    import jax
    import jax.numpy as jnp

    jax.jit(jnp.sin).lower(1.0).compile()
    try:
        import metagrad
    except ImportError:
        return
    step = metagrad.compile(
        lambda state, meta, batch: (
            state - metagrad.grad(lambda s: jnp.sum(meta * jnp.sin(s)))(state)
        )
    )
    step.metagradient(jnp.sum).lower(jnp.ones(2), jnp.ones(2), jnp.ones((2, 1)))


def _draw(results, path: Path, console: Console) -> None:
    try:
        from benchmarks.plot import draw

        draw(results, path)
    except ImportError as error:
        console.print(f"no plot: {error}; pip install 'metagrad[bench]'", markup=False)
    else:
        console.print(f"written: {path}")


if __name__ == "__main__":
    sys.exit(main())
