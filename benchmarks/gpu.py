"""`python -m benchmarks.gpu`: metagradients on a machine with a GPU, which needs JAX and no Enzyme.

    python -m benchmarks.gpu export FOLDER     where Enzyme is: writes programs for CPU and CUDA
    python -m benchmarks.gpu run FOLDER        where the GPU is: runs them, and code by hand

`run` compares each program with JAX's own gradient of the run, computed on the same device, and
times it in turn with plain training, Replay and MixFlow by hand and Equinox's loop (the latter and
Replay if equinox is installed). It prints a table per run and writes JSON. `--small` is for trying
the script itself out, on any device.
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import math
import shlex
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from benchmarks import record
from benchmarks.__main__ import RESULTS, words
from benchmarks.contenders import checkpointed, equinox_loop, mixflow, plain, replay, unrolled
from benchmarks.contenders.contender import Built, Contender, Problem, compile_program, place
from benchmarks.gpu_compile.programs import schedule_of
from benchmarks.measure import Limits, Row, measure
from benchmarks.models import convnet, gpt, gpt2, mlp
from benchmarks.models.model import Model
from benchmarks.reference import Reference
from benchmarks.table import table

CLOSE = 1e-4
"""How far a gradient may be from JAX's, relative to the largest entry, where both are exact f32."""


class Run(NamedTuple):
    """A training run that is measured.

    Attributes:
      model: a name of `MODELS`.
      steps: T.
      precision: of products: "highest" (f32 without shortcuts, in which gradients are compared),
        "f32" (what JAX does if nothing is said: TF32 on an NVIDIA GPU), "bf16".
      schedules: of metagrad.
      by_hand: whether all that is written by hand takes part, or plain training alone.
    """

    model: str
    steps: int
    precision: str
    schedules: tuple[str, ...]
    by_hand: bool = True

    @property
    def title(self) -> str:
        return f"{self.model}-{self.steps}-{self.precision}"

    def file(self, folder: Path, schedule: str) -> Path:
        return folder / f"{self.title}-{schedule.translate(str.maketrans('', '', '()'))}.mg"


MODELS = {
    "mlp": mlp.model,
    "convnet": convnet.model,
    "gpt": gpt.model,
    "gpt2": gpt2.drawn,
    "gpt2-small": lambda narrow: gpt2.drawn(narrow, gpt2.SMALL),
}

BOTH = "Binomial(24)", "StoreAll()"

RUNS = (
    Run("mlp", 16, "highest", ("Binomial(4)", "StoreAll()")),
    Run("convnet", 16, "highest", ("Binomial(4)", "StoreAll()")),
    Run("gpt", 16, "highest", ("Binomial(4)", "StoreAll()")),
    Run("mlp", 64, "f32", BOTH),
    Run("convnet", 64, "f32", BOTH),
    Run("gpt", 64, "f32", BOTH),
    Run("gpt2", 16, "bf16", ("Binomial(2)",)),
)

SMALL_RUNS = (
    Run("mlp", 4, "highest", ("Binomial(2)",)),
    Run("gpt2-small", 3, "highest", ("StoreAll()",), by_hand=False),
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
    from benchmarks.contenders.metagrad_schedules import metagradient
    from metagrad.api.export import export as write

    of = shapes(model_of(run), run.steps)
    paths = []
    for schedule in run.schedules:
        with products_as(run.precision):
            lowered = metagradient(of, schedule_of(schedule)).lower(*of.arguments)
            path = run.file(folder, schedule)
            write(lowered.program, path, ("cpu", "cuda"), overwrite=True)
        paths.append(path)
    return paths


def from_file(path: Path, schedule: str) -> Contender:
    """A program that `export` wrote, as a contender."""

    def build(problem: Problem) -> Built:
        import metagrad

        start = time.perf_counter()
        loaded = metagrad.load(path)
        seconds = time.perf_counter() - start

        def program(*arguments):
            result = loaded(*arguments)
            return result.value, result.grad

        details = {"load_seconds": seconds, "advances": loaded.plan.advances}
        return compile_program(program, problem, **details)

    return Contender(f"metagrad {schedule}", build)


def field(run: Run, folder: Path) -> list[Contender]:
    """All contenders for a run; plain training, the unit, comes first."""
    k = 4 if run.steps <= 16 else 16
    ours = [from_file(run.file(folder, schedule), schedule) for schedule in run.schedules]
    if not run.by_hand:
        return [plain.FUSED, *ours]
    return [
        plain.FUSED,
        *ours,
        checkpointed.CHECKPOINTED,
        mixflow.MIXFLOW,
        equinox_loop.contender(min(24, run.steps)),
        replay.by_jax(k),
        replay.by_mixed_mode(k),
    ]


def on_the_device(problem: Problem) -> Reference:
    """JAX's gradient of the run, in f32 on this device: of the scan with checkpointed steps."""
    model = problem.model
    program = unrolled.metagradient(model, model.make_step(jax), checkpointed.per_step)
    value, gradient = jax.jit(program)(*problem.arguments)
    return Reference(float(value), np.asarray(gradient, np.float64))


def run_one(run: Run, folder: Path, limits: Limits, console: Console) -> tuple[Problem, list[Row]]:
    """The rows of one run."""
    with products_as(run.precision):
        problem = place(model_of(run), run.steps)
        try:
            expected = on_the_device(problem)
        except Exception as error:  # it may not fit where ours does
            console.print(f"{run.title}: no gradient by JAX to compare with: {error}", markup=False)
            expected = Reference(math.nan, np.full(problem.meta.shape, math.nan))
        tell = lambda what, done, total: None
        return problem, measure(problem, field(run, folder), expected, limits, tell)


def failures(run: Run, rows: list[Row]) -> list[str]:
    """What is wrong with metagrad's rows, in words."""
    ours = [row for row in rows if row.contender.startswith("metagrad")]
    failed = [f"{run.title}: {row.contender}: {row.note}" for row in ours if row.error is None]
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
        help="names or patterns between commas, such as 'gpt*,mlp-64-f32' (default: all)",
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
        default=RESULTS / "gpu.json",
        help="JSON (default: results)",
    )
    return top


def main(argv: list[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    console = Console() if sys.stdout.isatty() else Console(width=120)
    runs = [
        run
        for run in (SMALL_RUNS if arguments.small else RUNS)
        if any(fnmatch.fnmatchcase(run.title, pattern) for pattern in arguments.runs)
    ]
    if arguments.what == "export":
        arguments.folder.mkdir(parents=True, exist_ok=True)
        for run in runs:
            for path in export(run, arguments.folder):
                console.print(f"{path}: {path.stat().st_size:,} bytes", markup=False)
        return 0
    written = record.provenance(
        "python -m benchmarks.gpu " + shlex.join(sys.argv[1:] if argv is None else argv)
    )
    written["results"] = []
    limits = Limits(arguments.repeat, min(3, arguments.repeat), arguments.budget, _memory())
    wrong = []
    console.print(f"{written['device']['name']}, jax {written['versions']['jax']}")
    for run in runs:
        problem, rows = run_one(run, arguments.folder, limits, console)
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
        record.write(arguments.out, written | {"failures": wrong})
    for line in wrong:
        console.print(line, markup=False)
    console.print(f"written: {arguments.out}")
    return 1 if wrong else 0


def _memory() -> int:
    """Bytes that a contender may take: what the device has."""
    statistics = jax.devices()[0].memory_stats()
    return (statistics or {}).get("bytes_limit", 12 * 2**30)


if __name__ == "__main__":
    sys.exit(main())
