"""`python -m benchmarks.gpu_compile`: compiles for an NVIDIA H100, on a machine without a GPU.

For each program it prints XLA's memory analysis beside the plan's prediction, the time to compile,
the products and who computes them, copies of the state in loops, and how often the host is asked
whether a loop goes on. benchmarks/README.md says how each is counted. Nothing is run, and no
weights are made.
"""

from __future__ import annotations

import argparse
import datetime
import fnmatch
import importlib.metadata
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
from rich.console import Console

from benchmarks import record
from benchmarks.__main__ import RESULTS, positive, words
from benchmarks.gpu_compile.ahead_of_time import (
    WHERE,
    NotPossible,
    environment,
    read_target_config,
)
from benchmarks.gpu_compile.programs import KNOWN, METAGRAD, MODELS, PRECISIONS, STEP, STEPS, names
from benchmarks.gpu_compile.rows import aims, table

DEVICE = "H100 (compiled ahead of time, not run)"


def _of(known) -> Any:
    def parse(text: str) -> str:
        if text not in known:
            raise argparse.ArgumentTypeError(f"no {text!r}; there are {', '.join(known)}")
        return text

    return parse


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu_compile", description=__doc__.split(": ", 1)[1]
    )
    top.add_argument(
        "--target-config",
        metavar="FILE",
        type=Path,
        help=f"describes the device. {WHERE}",
    )
    top.add_argument(
        "--models",
        type=words(_of(KNOWN)),
        default=tuple(MODELS),
        help=f"names between commas, of {', '.join(KNOWN)} (default: {','.join(MODELS)})",
    )
    top.add_argument(
        "--steps",
        type=words(positive),
        help="numbers of training steps T (default: 64; 16,1024 for gpt2)",
    )
    top.add_argument(
        "--precision",
        type=words(_of(PRECISIONS)),
        default=tuple(PRECISIONS),
        help="types of products (default: f32,bf16); parameters are f32",
    )
    top.add_argument(
        "--contenders",
        type=words(),
        default=("*",),
        help="names or patterns between commas, such as 'mixflow,metagrad*' (default: all). "
        f"'{METAGRAD}SCHEDULE' is taken for any schedule, such as '{METAGRAD}Binomial(8)'",
    )
    top.add_argument(
        "--limit-seconds",
        type=positive,
        default=1800,
        help="what takes longer to compile is stopped (default: %(default)s)",
    )
    top.add_argument(
        "--hlo",
        metavar="DIR",
        type=Path,
        help="folder for the optimised modules as text (default: they are not kept)",
    )
    top.add_argument(
        "--out",
        metavar="FILE",
        type=Path,
        default=RESULTS / "gpu_compile.json",
        help="JSON; rows that are there and are not compiled anew stay (default: results)",
    )
    return top


def main(argv: list[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    # This process computes nothing, and is not to look for a GPU.
    jax.config.update("jax_platforms", "cpu")
    console = Console() if sys.stdout.isatty() else Console(width=200)
    try:
        target_config, prepared = read_target_config(arguments.target_config), environment()
    except NotPossible as reason:
        console.print(str(reason), markup=False, soft_wrap=True)
        return 1
    command = shlex.join(sys.argv[1:] if argv is None else argv)
    written = _record(f"python -m benchmarks.gpu_compile {command}")
    there = arguments.out.is_file()
    written["rows"] = json.loads(arguments.out.read_text())["rows"] if there else []
    with_step: set[tuple[str, str]] = set()
    for setting in settings(arguments):
        for program in chosen(names(setting["model"], setting["steps"]), arguments.contenders):
            if program == STEP:
                # It is the same whatever the number of steps.
                of = setting["model"], setting["precision"]
                if of in with_step:
                    continue
                with_step.add(of)
            console.print(f"{_title(setting)}: compiling {program}", markup=False)
            request = setting | {"program": program, "target_config": str(target_config.resolve())}
            if arguments.hlo:
                arguments.hlo.mkdir(parents=True, exist_ok=True)
                name = "-".join(map(str, [*setting.values(), program])).replace(" ", "-")
                request["hlo"] = str(arguments.hlo.resolve() / f"{name}.hlo")
            row = setting | {
                "program": program,
                "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
                "commit": written["commit"],
                **compiled(request, prepared, arguments.limit_seconds),
            }
            kept = [each for each in written["rows"] if _key(each) != _key(row)]
            written["rows"] = [*kept, row]
            # After each program, so that a run that is stopped leaves what it has.
            record.write(arguments.out, written)
        _show(console, setting, written["rows"])
    console.print(f"written: {arguments.out}")
    return 0


def settings(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Model, number of steps and precision of each problem that is asked for."""
    return [
        {"model": model, "steps": steps, "precision": precision}
        for model in arguments.models
        for precision in arguments.precision
        for steps in arguments.steps or STEPS[model]
    ]


def chosen(known: tuple[str, ...], patterns: tuple[str, ...]) -> list[str]:
    """The programs that patterns choose of those known, and schedules that are named beside."""
    matching = [
        name for name in known if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
    ]
    beside = [
        pattern
        for pattern in patterns
        if pattern.startswith(METAGRAD) and pattern.endswith(")") and pattern not in matching
    ]
    return [*beside, *matching]


def compiled(
    request: dict[str, Any], prepared: dict[str, str], limit_seconds: float
) -> dict[str, Any]:
    """What the worker says of a program, or a note why it says nothing."""
    with tempfile.TemporaryDirectory(prefix="metagrad-gpu-compile-") as folder:
        asked, answer = Path(folder) / "request.json", Path(folder) / "result.json"
        asked.write_text(json.dumps(request))
        start = time.perf_counter()
        with open(Path(folder) / "stderr", "w+") as said:
            process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.gpu_compile.worker", str(asked), str(answer)],
                env=prepared,
                stdout=subprocess.DEVNULL,
                stderr=said,
                cwd=Path(__file__).parents[2],
                start_new_session=True,
            )
            try:
                process.wait(limit_seconds)
            except subprocess.TimeoutExpired:
                return {"note": f"stopped after {limit_seconds:g} s"}
            finally:
                if process.poll() is None:
                    # The worker and what it started: ptxas, Enzyme's process.
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
            said.seek(0)
            lines = said.read().strip().splitlines() or ["it said nothing"]
        if process.returncode:
            return {"note": f"ended with {process.returncode}: {lines[-1][:300]}"}
        return json.loads(answer.read_text()) | {"process_seconds": time.perf_counter() - start}


def _record(command: str) -> dict[str, Any]:
    written = record.provenance(command)
    written["device"] |= {"platform": "cuda", "name": DEVICE}
    for package in ("jax-cuda12-plugin", "jax-cuda12-pjrt", "nvidia-cuda-nvcc-cu12"):
        try:
            written["versions"][package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            written["versions"][package] = None
    return written


def _key(row: dict[str, Any]) -> tuple:
    return tuple(row[name] for name in ("model", "steps", "precision", "program"))


def _title(setting: dict[str, Any]) -> str:
    return f"{setting['model']}, T = {setting['steps']}, {setting['precision']}"


def _show(console: Console, setting: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    same = lambda row, *names: all(row[name] == setting[name] for name in names)
    shown = [row for row in rows if same(row, *setting)]
    # The step is the same whatever the number of steps.
    steps = [
        row
        for row in rows
        if row["program"] == STEP and same(row, "model", "precision") and "memory" in row
    ]
    if steps and not any(row["program"] == STEP and "memory" in row for row in shown):
        shown.append(steps[0])
    console.print(table(_title(setting), shown))
    for row in shown:
        if row["program"].startswith(METAGRAD) and "memory" in row:
            for name, reached in aims(row, steps[0] if steps else None).items():
                mark = "yes" if reached else "NO "
                console.print(f"  {mark} {row['program']}: {name}", markup=False)


if __name__ == "__main__":
    # So that what is asked to stop stops its worker as well.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    sys.exit(main())
