"""`python -m benchmarks.mixflow`: the metagradients of MixFlow-MG's tasks, in memory and time.

Each row is a task on a transformer, measured in a process of its own, and written into
results/mixflow.json when it is done. A row that is there is not measured again: a benchmark that
was stopped goes on. README.md says what is measured, and docs/mixed_mode.md shows the table.
"""

from __future__ import annotations

import argparse
import datetime
import fnmatch
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

from rich.console import Console

from benchmarks import record
from benchmarks.__main__ import RESULTS, positive, words
from benchmarks.mixflow.aims import counts
from benchmarks.mixflow.contenders import CONTENDERS, OURS, OURS_BLOCKS
from benchmarks.mixflow.markdown import lines
from benchmarks.mixflow.rows import BY_NAME, QUICK, ROWS, Row

COMPILE_SECONDS = 6
"""A guess, for the estimate: what a contender takes to compile on two idle cores."""

TORCHOPT = "TorchOpt"


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="python -m benchmarks.mixflow", description=__doc__.split(": ", 1)[1].split("\n")[0]
    )
    top.add_argument(
        "--rows",
        type=words(),
        default=("*",),
        help="names or patterns between commas, such as 'rates-*,maml-0.1M-*' (default: all); "
        "--list prints the names",
    )
    which = top.add_mutually_exclusive_group()
    which.add_argument("--timed", action="store_true", help="only the rows that are run")
    which.add_argument("--compiled", action="store_true", help="only those that are compiled only")
    which.add_argument("--quick", action="store_true", help="two small rows, into quick.json")
    top.add_argument("--list", action="store_true", help="prints the rows, and measures nothing")
    top.add_argument("--again", action="store_true", help="measures rows that are there already")
    top.add_argument(
        "--contenders",
        type=words(),
        default=("*",),
        help=f"names or patterns, of: {'; '.join(CONTENDERS)} (default: all)",
    )
    top.add_argument("--repeat", type=positive, default=5, help="most rounds (default: 5)")
    top.add_argument(
        "--budget",
        metavar="SECONDS",
        type=float,
        default=20,
        help="time for a row's rounds, where that allows more than three (default: %(default)g)",
    )
    top.add_argument(
        "--memory-limit",
        metavar="GIB",
        type=float,
        default=12.0,
        help="what needs more is not run (default: %(default)g)",
    )
    top.add_argument(
        "--limit-seconds",
        type=positive,
        default=1200,
        help="a row that takes longer is stopped (default: %(default)s)",
    )
    top.add_argument("--out", metavar="DIR", type=Path, default=RESULTS, help="folder for results")
    return top


def main(argv: list[str] | None = None) -> int:
    top = parser()
    arguments = top.parse_args(argv)
    console = Console() if sys.stdout.isatty() else Console(width=200)
    path = arguments.out / ("mixflow_quick.json" if arguments.quick else "mixflow.json")
    written = record.provenance(
        "python -m benchmarks.mixflow " + shlex.join(sys.argv[1:] if argv is None else argv)
    )
    written["rows"] = json.loads(path.read_text())["rows"] if path.is_file() else []
    there = {row["name"] for row in written["rows"]}
    rows = [row for row in chosen(arguments, top) if arguments.again or row.name not in there]
    contenders = matching(arguments.contenders, top)
    if arguments.list:
        for row in rows:
            console.print(f"{row.name}{'' if row.timed else ' (compiled only)'}", markup=False)
        return 0
    left = sum(guess(row, contenders, arguments.budget) for row in rows)
    console.print(f"{len(rows)} rows, about {left / 60:.0f} minutes", markup=False)
    for done, row in enumerate(rows):
        start = time.perf_counter()
        measured = run(row, contenders, arguments)
        took = time.perf_counter() - start
        for each in [old for old in written["rows"] if old["name"] == row.name]:
            written["rows"].remove(each)
        written["rows"].append(measured | {"seconds": took, "commit": written["commit"]})
        # In the order of rows.py, whatever the order in which they were measured.
        order = list(BY_NAME)
        written["rows"].sort(key=lambda each: order.index(each["name"]))
        record.write(path, written)
        left -= guess(row, contenders, arguments.budget)
        console.print(
            f"{done + 1}/{len(rows)} {row.name}: {took:.0f} s; about {left / 60:.0f} minutes left",
            markup=False,
        )
    show(written["rows"], path, console)
    return 0


def chosen(arguments: argparse.Namespace, top: argparse.ArgumentParser) -> list[Row]:
    known = QUICK if arguments.quick else ROWS
    for pattern in arguments.rows:
        if not any(fnmatch.fnmatchcase(row.name, pattern) for row in known):
            top.error(f"argument --rows: no row is called {pattern!r}; --list prints the names")
    return [
        row
        for row in known
        if any(fnmatch.fnmatchcase(row.name, pattern) for pattern in arguments.rows)
        and not (arguments.timed and not row.timed)
        and not (arguments.compiled and row.timed)
    ]


def matching(patterns: tuple[str, ...], top: argparse.ArgumentParser) -> list[str]:
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(name, pattern) for name in CONTENDERS):
            top.error(f"argument --contenders: nothing is called {pattern!r}")
    return [
        name for name in CONTENDERS if any(fnmatch.fnmatchcase(name, each) for each in patterns)
    ]


def guess(row: Row, contenders: list[str], budget: float) -> float:
    return COMPILE_SECONDS * len(contenders) + (budget if row.timed else 0)


def run(row: Row, contenders: list[str], arguments: argparse.Namespace) -> dict[str, Any]:
    """What the worker says of a row, or a note why it says nothing."""
    request = {
        "row": row,
        # What is not run is compiled, and TorchOpt compiles nothing.
        "contenders": [name for name in contenders if row.timed or name != TORCHOPT],
        "rounds": arguments.repeat,
        "seconds": arguments.budget,
        "memory_bytes": int(arguments.memory_limit * 2**30),
    }
    failed = lambda note: (
        row._asdict()
        | {"name": row.name, "date": _now(), "contenders": {}, "state_bytes": None, "note": note}
    )
    with tempfile.TemporaryDirectory(prefix="metagrad-mixflow-") as folder:
        asked, answer = Path(folder) / "request.json", Path(folder) / "result.json"
        asked.write_text(json.dumps(request))
        with open(Path(folder) / "stderr", "w+") as errors:
            process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.mixflow.worker", str(asked), str(answer)],
                env=os.environ | {"METAGRAD_CACHE": "0", "JAX_PLATFORMS": "cpu"},
                stderr=errors,
                cwd=Path(__file__).parents[2],
                start_new_session=True,
            )
            try:
                process.wait(arguments.limit_seconds)
            except subprocess.TimeoutExpired:
                return failed(f"stopped after {arguments.limit_seconds} s")
            finally:
                if process.poll() is None:
                    # The worker and what it started: Enzyme's process.
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
            errors.seek(0)
            last = errors.read().strip().splitlines()[-1:] or ["it said nothing"]
        if process.returncode:
            return failed(f"ended with {process.returncode}: {last[0][:300]}")
        return json.loads(answer.read_text()) | {"date": _now()}


def show(rows: list[dict[str, Any]], path: Path, console: Console) -> None:
    text = lines(rows)
    path.with_suffix(".md").write_text("\n".join(text) + "\n")
    for ours in (OURS, OURS_BLOCKS):
        for line in counts(rows, ours):
            console.print(line, markup=False, soft_wrap=True)
    for row in rows:
        for name, entry in row["contenders"].items():
            if entry["note"]:
                console.print(f"{row['name']}: {name}: {entry['note']}", markup=False)
        if row.get("note"):
            console.print(f"{row['name']}: {row['note']}", markup=False)
    try:
        from benchmarks.mixflow.plot import draw

        draw(rows, path.with_suffix(".png"))
    except ImportError as error:
        console.print(f"no plot: {error}; pip install 'metagrad[bench]'", markup=False)
    console.print(f"written: {path}, and .md and .png beside it", markup=False)


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


if __name__ == "__main__":
    sys.exit(main())
