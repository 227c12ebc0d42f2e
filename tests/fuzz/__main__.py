"""python -m tests.fuzz --seed S --programs N: compares programs 0 ..

N - 1 of seed S, and shrinks those that fail.
"""

import argparse
import json
import sys
import threading
import time
from pathlib import Path
from queue import Empty, Queue

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from . import source
from .findings import FAILURES, Findings, signature
from .shrink import shrink
from .worker import LIMIT, Worker


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same programs")
    parser.add_argument(
        "--programs",
        type=int,
        default=100,
        metavar="N",
        help="how many to compare (with --minutes: at most)",
    )
    parser.add_argument("--first", type=int, default=0, metavar="K", help="number of the first")
    parser.add_argument(
        "--program", type=int, metavar="K", help="compares program K alone and prints it"
    )
    parser.add_argument("--minutes", type=float, metavar="M", help="stop after so long")
    parser.add_argument("--jobs", type=int, default=1, metavar="J", help="processes")
    parser.add_argument(
        "--limit",
        type=float,
        default=LIMIT,
        metavar="SECONDS",
        help="when a program counts as hanging",
    )
    parser.add_argument("--no-shrink", action="store_true", help="print failures as they are")
    parser.add_argument(
        "--shrink-seconds", type=float, default=300.0, metavar="SECONDS", help="for each failure"
    )
    parser.add_argument(
        "--log", type=Path, metavar="FILE", help="one JSON line a program, and the failing programs"
    )
    options = parser.parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    if options.program is not None:
        return one(options, console)
    findings = Findings(options.seed)
    numbers, lock = Queue(), threading.Lock()
    for number in range(options.first, options.first + options.programs):
        numbers.put(number)
    end = time.monotonic() + 60 * options.minutes if options.minutes else float("inf")
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        refresh_per_second=2,
        disable=not sys.stdout.isatty(),
    ) as progress:
        task = progress.add_task(f"seed {options.seed}", total=options.programs)

        def work():
            worker = Worker(limit=options.limit)
            try:
                while time.monotonic() < end:
                    try:
                        number = numbers.get_nowait()
                    except Empty:
                        return
                    program = worker.generate(options.seed, number)
                    report = worker.compare(program)
                    with lock:
                        new = findings.add(number, program, report)
                        progress.update(
                            task, advance=1, description=f"seed {options.seed}: {findings.brief()}"
                        )
                        if options.log:
                            with options.log.open("a") as file:
                                print(
                                    json.dumps(
                                        {"seed": options.seed, "number": number, "report": report}
                                    ),
                                    file=file,
                                )
                    if report["class"] in FAILURES and new:
                        tell(console, worker, options, number, program, report, lock)
            finally:
                worker.stop()

        threads = [threading.Thread(target=work, daemon=True) for _ in range(options.jobs)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    console.print(findings.summary(), markup=False)
    return 1 if findings.failed else 0


def tell(console, worker, options, number, program, report, lock):
    """Prints a failure of a kind that has not been seen, made small."""
    kind, tried = signature(report), 0
    if not options.no_shrink:
        program, tried = shrink(
            program,
            lambda candidate: signature(worker.compare(candidate)) == kind,
            options.shrink_seconds,
        )
        report = worker.compare(program)
    with lock:
        console.rule(f"{kind}: --seed {options.seed} --program {number} (shrunk in {tried} trials)")
        console.print(report["detail"], report.get("where", ""), markup=False)
        console.print(source.render(program), markup=False, soft_wrap=True)
        console.file.flush()


def one(options, console):
    worker = Worker(limit=options.limit)
    program = worker.generate(options.seed, options.program)
    report = worker.compare(program)
    console.print(source.render(program), markup=False, soft_wrap=True)
    console.print(report)
    if report["class"] in FAILURES and not options.no_shrink:
        tell(console, worker, options, options.program, program, report, threading.Lock())
    worker.stop()
    return 1 if report["class"] in FAILURES else 0


if __name__ == "__main__":
    sys.exit(main())
