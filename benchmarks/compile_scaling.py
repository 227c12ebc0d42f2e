"""`python -m benchmarks.compile_scaling`: how compile time grows with the model's depth.

The model is the GPT of the benchmarks with 4, 12 and 24 layers, unrolled and in a `lax.scan`, for
T = 32. For each it times lowering (all that metagrad does, without a cache) and XLA, and compares
their sum with jitting one VJP of the step in JAX, tracing and all. Rounds are interleaved; the
medians are printed. Nothing is run: shapes are enough.
"""

from __future__ import annotations

import argparse
import functools
import os
import shlex
import statistics
import sys
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks import record
from benchmarks.__main__ import RESULTS, positive, words
from benchmarks.compile_time import (
    compile_step_vjp,
    lower_metagradient,
    lowering_and_xla,
    seconds,
)
from benchmarks.models import gpt


def case_name(text: str) -> tuple[int, bool]:
    """A number of layers, and whether they stand in a scan: "12", "12-scan"."""
    layers, _, scan = text.partition("-")
    if scan not in ("", "scan"):
        raise argparse.ArgumentTypeError(f"{text!r}: write a number of layers, as 12 or 12-scan")
    return positive(layers), bool(scan)


def measure(model, steps: int) -> tuple[float, float]:
    """(lowering, XLA) in seconds."""
    return lowering_and_xla(functools.partial(lower_metagradient, model, steps, 4))


def main(argv: list[str] | None = None) -> int:
    top = argparse.ArgumentParser(
        prog="python -m benchmarks.compile_scaling", description=__doc__.split("\n\n")[0]
    )
    top.add_argument(
        "--layers",
        type=words(case_name),
        default=[(n, scan) for n in (4, 12, 24) for scan in (False, True)],
        help="numbers of layers between commas, with -scan for a lax.scan "
        "(default: 4,4-scan,12,12-scan,24,24-scan)",
    )
    top.add_argument("--steps", type=positive, default=32, help="T (default: %(default)s)")
    top.add_argument("--repeat", type=positive, default=3, help="rounds (default: %(default)s)")
    top.add_argument("--out", metavar="DIR", type=Path, default=RESULTS, help="folder for the JSON")
    arguments = top.parse_args(argv)
    os.environ["METAGRAD_CACHE"] = "0"
    console = Console() if sys.stdout.isatty() else Console(width=120)
    models = {case: gpt.model(*case) for case in arguments.layers}
    # Unmeasured: what starts once in a process.
    measure(gpt.model(1), 2)
    times: dict = {case: ([], [], []) for case in models}
    rounds = [case for _ in range(arguments.repeat) for case in models]
    for case in track(rounds, "compiling", console=console, transient=True):
        lowering, xla = measure(models[case], arguments.steps)
        by_jax = seconds(functools.partial(compile_step_vjp, models[case]))
        for taken, number in zip(times[case], (lowering, xla, by_jax)):
            taken.append(number)
    shown = Table(
        title=f"GPT of width {gpt.WIDTH}, T = {arguments.steps}: "
        f"seconds, medians of {arguments.repeat}",
        title_justify="left",
    )
    for heading in ("layers", "lowering", "XLA", "lowering / XLA", "JAX's step VJP", "total / it"):
        shown.add_column(heading, justify="left" if heading == "layers" else "right")
    rows = []
    for (layers, scanned), taken in times.items():
        lowering, xla, by_jax = map(statistics.median, taken)
        rows.append(
            {
                "layers": layers,
                "scanned": scanned,
                "lowering": taken[0],
                "xla": taken[1],
                "step_vjp": taken[2],
                "lowering_over_xla": lowering / xla,
                "total_over_step_vjp": (lowering + xla) / by_jax,
            }
        )
        numbers = (lowering, xla, lowering / xla, by_jax, (lowering + xla) / by_jax)
        shown.add_row(f"{layers}{' in a scan' * scanned}", *(f"{n:.2f}" for n in numbers))
    console.print(shown)
    command = shlex.join(sys.argv[1:] if argv is None else argv)
    written = record.provenance(f"python -m benchmarks.compile_scaling {command}".strip())
    record.write(arguments.out / "compile_scaling.json", written | {"results": rows})
    console.print(f"written: {arguments.out / 'compile_scaling.json'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
