"""`python -m benchmarks.gpu`: metagradients on a machine with a GPU, which needs JAX and no Enzyme.

    python -m benchmarks.gpu export FOLDER     where Enzyme is: writes programs for CPU and CUDA
    python -m benchmarks.gpu run FOLDER        where the GPU is: runs them, and code by hand

`run` compares each program with JAX's own gradient of the run, computed on the same device, and
times it in turn with plain training, Replay and MixFlow by hand and Equinox's loop (the latter and
Replay if equinox is installed), or, for the tasks of MixFlow-MG (benchmarks/mixflow), with default
JAX and MixFlow by hand. It prints a table per run and adds a record to the JSON, which
`python -m benchmarks.gpu_page` writes into docs/gpu.md. `--small` is for trying the script itself
out, on any device.
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import functools
import json
import re
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
from rich.console import Console

from benchmarks import record
from benchmarks.__main__ import RESULTS, words
from benchmarks.contenders import checkpointed, equinox_loop, mixflow, plain, replay
from benchmarks.contenders.contender import (
    Built,
    Contender,
    Memory,
    Problem,
    compile_program,
    place,
)
from benchmarks.gpu_compile.programs import TASKS, schedule_and_options
from benchmarks.measure import Limits, Row, measure
from benchmarks.mixflow.contenders import BY_HAND, CONTENDERS, DEFAULT
from benchmarks.mixflow.tasks import Task, task
from benchmarks.mixflow.worker import Agreement, placed
from benchmarks.models import convnet, gpt, gpt2, mlp
from benchmarks.models.model import Model
from benchmarks.table import table

CLOSE = 1e-4
"""How far a gradient may be from JAX's, relative to the largest entry, where both are exact f32."""


STREAMED = "streamed "
"""Before the schedule in the name of a program whose batches are streamed."""


class Run(NamedTuple):
    """A training run that is measured.

    Attributes:
      model: a name of `MODELS`.
      steps: T.
      precision: of products: "highest" (f32 without shortcuts, in which gradients are compared),
        "f32" (what JAX does if nothing is said: TF32 on an NVIDIA GPU), "bf16".
      schedules: of metagrad, with the option `remat` where it is not the default.
      by_hand: whether all that is written by hand takes part, or plain training and JAX's gradient
        of the checkpointed steps alone.
      streamed: schedules of metagrad for streamed runs, whose slots are in the host's memory or on
        disk where the schedule says so.
    """

    model: str
    steps: int
    precision: str
    schedules: tuple[str, ...]
    by_hand: bool = True
    streamed: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        return f"{self.model}-{self.steps}-{self.precision}"

    def file(self, folder: Path, name: str) -> Path:
        """Of the program with this name: a schedule, with "streamed" before it if it is one."""
        return folder / f"{self.title}-{re.sub(r'[^A-Za-z0-9]+', '-', name).strip('-')}.mg"

    @property
    def programs(self) -> tuple[str, ...]:
        return *self.schedules, *(f"{STREAMED}{schedule}" for schedule in self.streamed)


MODELS = {
    "mlp": mlp.model,
    "convnet": convnet.model,
    "gpt": gpt.model,
    "gpt2": gpt2.drawn,
    "gpt2-small": lambda narrow: gpt2.drawn(narrow, gpt2.SMALL),
    "rates-6M": functools.partial(task, "rates", "6M", 512, 4),
    "maml-6M": functools.partial(task, "maml", "6M", 256, 4),
    "weighting-6M": functools.partial(task, "weighting", "6M", 512, 2),
    "weighting-tiny": functools.partial(task, "weighting", "tiny", 16, 2),
    **TASKS,
}

BOTH = "Binomial(24)", "StoreAll()"
AUTO = 'Auto("70GB")', 'Auto("70GB"), remat="blocks"'
"""Of the tasks of MixFlow-MG, for a device of 80 GB."""

TIERS = 'Auto("300MB", host="4GB")', 'Auto("300MB", host="200MB", disk="4GB")'

RUNS = (
    Run("mlp", 16, "highest", ("Binomial(4)", "StoreAll()"), by_hand=False),
    Run("convnet", 16, "highest", ("Binomial(4)", "StoreAll()"), by_hand=False),
    Run("gpt", 16, "highest", ("Binomial(4)", "StoreAll()"), by_hand=False),
    Run("mlp", 64, "f32", BOTH),
    Run("convnet", 64, "f32", BOTH),
    Run("gpt", 64, "f32", BOTH, streamed=TIERS),
    Run("gpt2", 16, "bf16", ("Binomial(2)",)),
    Run("rates-6M", 8, "highest", AUTO, by_hand=False),
    Run("rates-6M", 8, "f32", AUTO),
    Run("maml-6M", 8, "f32", AUTO),
    Run("weighting-6M", 8, "f32", AUTO),
    Run("rates-124M", 2, "f32", AUTO),
    Run("rates-124M", 8, "f32", AUTO),
)

SMALL_RUNS = (
    Run("mlp", 4, "highest", ("Binomial(2)",), streamed=('Auto("1GB", host="1GB")',)),
    Run("gpt2-small", 3, "highest", ("StoreAll()",), by_hand=False),
    Run("weighting-tiny", 3, "highest", ("StoreAll()", 'StoreAll(), remat="blocks"')),
)


@contextlib.contextmanager
def products_as(precision: str) -> Iterator[None]:
    with jax.default_matmul_precision("highest" if precision == "highest" else None):
        yield


def model_of(run: Run) -> Model:
    return MODELS[run.model](narrow=jnp.bfloat16 if run.precision == "bf16" else None)


def export(run: Run, folder: Path) -> list[Path]:
    """Writes a run's programs, one file for each schedule, and gives their paths.

    No program is compiled for the machine that this runs on.
    """
    from benchmarks.compile_time import shapes

    of = shapes(model_of(run), run.steps)
    return [_export(run, of, name, run.file(folder, name)) for name in run.programs]


def _export(run: Run, of: Problem, name: str, path: Path) -> Path:
    from benchmarks.contenders.metagrad_schedules import metagradient
    from metagrad.api.export import export as write
    from metagrad.api.export import export_streamed as write_streamed

    schedule, options = schedule_and_options(name.removeprefix(STREAMED))
    if name.startswith(STREAMED):
        options["runtime"] = "streamed"
    with products_as(run.precision):
        lowered = metagradient(of, schedule, **options).lower(*of.arguments)
        platforms = "cpu", "cuda"
        if name.startswith(STREAMED):
            write_streamed(lowered.program, lowered.plan, path, platforms, overwrite=True)
        else:
            write(lowered.program, path, platforms, overwrite=True)
    return path


def from_file(path: Path, name: str) -> Contender:
    """A program that `export` wrote, as a contender."""

    def build(problem: Problem) -> Built:
        import metagrad

        start = time.perf_counter()
        loaded = metagrad.load(path)
        seconds = time.perf_counter() - start

        def program(*arguments):
            result = loaded(*arguments)
            # Counters have gradients of dtype float0, which are no arrays.
            floats = [leaf for leaf in jax.tree.leaves(result.grad) if leaf.dtype == jnp.float32]
            return result.value, floats

        details = {"load_seconds": seconds, "plan": str(loaded.plan)}
        if not name.startswith(STREAMED):
            return compile_program(program, problem, **details)
        # It compiles with the first call.
        start = time.perf_counter()
        jax.block_until_ready(program(*problem.arguments))
        seconds = time.perf_counter() - start
        return Built(program, Memory(loaded.plan.bytes, "counted"), seconds, details)

    return Contender(f"metagrad {name}", build)


def field(run: Run, folder: Path) -> tuple[Contender, list[Contender]]:
    """JAX's gradient that ours are compared with, and all contenders for a run.

    Plain training, the unit, comes first, and JAX's gradient comes before all others.
    """
    k = 4 if run.steps <= 16 else 16
    ours = [from_file(run.file(folder, name), name) for name in run.programs]
    if isinstance(model_of(run), Task):
        jaxs = CONTENDERS["checkpoint + blocks"]
        others = [CONTENDERS[BY_HAND], CONTENDERS[DEFAULT]]
    else:
        jaxs = checkpointed.CHECKPOINTED
        others = [
            mixflow.MIXFLOW,
            equinox_loop.contender(min(24, run.steps)),
            replay.by_jax(k),
            replay.by_mixed_mode(k),
        ]
    return jaxs, [plain.FUSED, jaxs, *ours, *(others if run.by_hand else ())]


def run_one(run: Run, folder: Path, limits: Limits) -> tuple[Problem, list[Row]]:
    """The rows of one run."""
    with products_as(run.precision):
        model = model_of(run)
        problem = placed(model, run.steps) if isinstance(model, Task) else place(model, run.steps)
        jaxs, contenders = field(run, folder)
        rows = measure(problem, contenders, Agreement(), limits, lambda what, done, total: None)
        # Where JAX's did not run, what is compared with is another's.
        if next(row for row in rows if row.contender == jaxs.name).error is None:
            for row in rows:
                row.error = None
        return problem, rows


def failures(run: Run, rows: list[Row]) -> list[str]:
    """What is wrong with metagrad's rows, in words."""
    ours = [row for row in rows if row.contender.startswith("metagrad")]
    failed = [
        f"{run.title}: {row.contender}: {row.note or 'JAX has no gradient to compare with'}"
        for row in ours
        if row.error is None
    ]
    if run.precision != "highest":
        return failed
    return failed + [
        f"{run.title}: {row.contender} differs from JAX's gradient by {row.error:.1e}"
        for row in ours
        if row.error is not None and not row.error <= CLOSE
    ]


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    top.formatter_class = argparse.RawDescriptionHelpFormatter
    top.add_argument("what", choices=("export", "run"))
    top.add_argument("folder", type=Path, help="of the programs")
    top.add_argument("--small", action="store_true", help="small models, a few steps")
    top.add_argument(
        "--runs",
        type=words(),
        default=("*",),
        help="names or patterns between commas, such as 'gpt*,mlp-64-f32', in the order in which "
        "they run (default: all)",
    )
    top.add_argument("--repeat", type=int, default=7, help="most rounds (default: %(default)s)")
    top.add_argument(
        "--budget",
        metavar="SECONDS",
        type=float,
        default=20.0,
        help="time for the rounds of one run (default: %(default)g)",
    )
    top.add_argument(
        "--out",
        metavar="FILE",
        type=Path,
        help="JSON, to which a record is added (default: results, or the folder with --small)",
    )
    return top


def named(patterns: Sequence[str], known: Sequence[Run], top: argparse.ArgumentParser) -> list[Run]:
    """The runs of these names, in the order of the patterns."""
    runs: dict[Run, None] = {}
    for pattern in patterns:
        matches = [run for run in known if fnmatch.fnmatchcase(run.title, pattern)]
        if not matches:
            titles = ", ".join(run.title for run in known)
            top.error(f"argument --runs: no run is called {pattern!r}; there are {titles}")
        runs |= dict.fromkeys(matches)
    return list(runs)


def main(argv: list[str] | None = None) -> int:
    top = parser()
    arguments = top.parse_args(argv)
    console = Console() if sys.stdout.isatty() else Console(width=120)
    runs = named(arguments.runs, SMALL_RUNS if arguments.small else RUNS, top)
    if arguments.what == "export":
        arguments.folder.mkdir(parents=True, exist_ok=True)
        for run in runs:
            for path in export(run, arguments.folder):
                console.print(f"{path}: {path.stat().st_size:,} bytes", markup=False)
        return 0
    for path in (run.file(arguments.folder, name) for run in runs for name in run.programs):
        if not path.is_file():
            top.error(
                f"argument folder: there is no {path}; `python -m benchmarks.gpu export "
                f"{arguments.folder}`, with the same --runs and --small, writes it"
            )
    written = record.provenance(
        "python -m benchmarks.gpu " + shlex.join(sys.argv[1:] if argv is None else argv)
    )
    written["results"] = []
    out = arguments.out or (arguments.folder if arguments.small else RESULTS) / "gpu.json"
    records = json.loads(out.read_text())["records"] if out.exists() else []
    limits = Limits(arguments.repeat, min(3, arguments.repeat), arguments.budget, _memory())
    wrong = []
    console.print(f"{written['device']['name']}, jax {written['versions']['jax']}")
    for run in runs:
        problem, rows = run_one(run, arguments.folder, limits)
        console.print(table(problem, rows, "JAX's gradient on this device"))
        wrong += failures(run, rows)
        written["results"].append(
            {
                **run._asdict(),
                "description": problem.model.description,
                "state_bytes": problem.state_bytes,
                "rows": [row.jsonable() for row in rows],
            }
        )
        # After each run, so that one that is stopped leaves what it has.
        written["failures"] = wrong
        record.write(out, {"records": [*records, written]})
    for line in wrong:
        console.print(line, markup=False)
    console.print(f"written: {out}")
    return 1 if wrong else 0


def _memory() -> int:
    """Bytes that a contender may take: what the device has."""
    statistics = jax.devices()[0].memory_stats()
    return (statistics or {}).get("bytes_limit", 12 * 2**30)


if __name__ == "__main__":
    sys.exit(main())
