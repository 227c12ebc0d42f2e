"""Time, memory, compile time and error of all contenders on one problem, in one process.

All are compiled first. Then each round runs every contender once. The order is reversed from round
to round, so that other work of the machine falls on all alike. Ratios are taken within a round,
against the plain training of that round, and their median is reported.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax

from benchmarks.contenders import PIECES, PLAIN
from benchmarks.contenders.contender import Built, Contender, Problem, Unavailable


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a measurement may take.

    Attributes:
      most_rounds, fewest_rounds: the number of rounds.
      seconds: what the rounds of one problem may take, where that allows more than the fewest.
      memory_bytes: what a contender may need.
    """

    most_rounds: int
    fewest_rounds: int
    seconds: float
    memory_bytes: int


class Errors(Protocol):
    """Says how far a gradient is from the right one; reference.py's, for most benchmarks."""

    def error(self, gradient: Any) -> float: ...


@dataclasses.dataclass
class Row:
    """What was measured of one contender on one problem.

    Times are in seconds; `note` says why something is missing. Ratios are against plain training as
    JAX compiles it, `piece_ratios` against plain training through metagrad's own pieces.
    """

    contender: str
    note: str = ""
    times: list[float] = dataclasses.field(default_factory=list)
    ratios: list[float] = dataclasses.field(default_factory=list)
    piece_ratios: list[float] = dataclasses.field(default_factory=list)
    memory_bytes: int | None = None
    memory_source: str = ""
    compile_seconds: float | None = None
    error: float | None = None
    details: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def seconds(self) -> float | None:
        return statistics.median(self.times) if self.times else None

    @property
    def ratio(self) -> float | None:
        return statistics.median(self.ratios) if self.ratios else None

    @property
    def piece_ratio(self) -> float | None:
        return statistics.median(self.piece_ratios) if self.piece_ratios else None

    def jsonable(self) -> dict[str, Any]:
        derived = {
            "seconds": self.seconds,
            "ratio": self.ratio,
            "piece_ratio": self.piece_ratio,
        }
        return dataclasses.asdict(self) | derived


def measure(
    problem: Problem,
    contenders: Sequence[Contender],
    reference: Errors,
    limits: Limits,
    tell: Callable[[str, int, int], None],
) -> list[Row]:
    """One row per contender, in their order.

    `tell(what, done, total)` is called as the work goes on.
    """
    rows = {contender.name: Row(contender.name) for contender in contenders}
    running: dict[str, Built] = {}
    for done, contender in enumerate(contenders):
        tell(f"compiling {contender.name}", done, len(contenders))
        built = _build(contender, problem, rows[contender.name], limits)
        if built is not None:
            running[contender.name] = built

    def one_round(label: str, order: Sequence[str], measured: bool) -> float:
        start = time.perf_counter()
        times = {}
        for done, name in enumerate(order):
            tell(f"{label}: {name}", done, len(order))
            try:
                times[name], gradient = _run(running[name], problem)
            # One contender's failure is a line in the table, not the end of the benchmark.
            except Exception as error:
                rows[name].note = _failure("failed", error)
                del running[name]
                continue
            if gradient is not None:
                rows[name].error = reference.error(gradient)
        total = time.perf_counter() - start
        if measured or total > limits.seconds:
            for name, seconds in times.items():
                rows[name].times.append(seconds)
                if PLAIN in times:
                    rows[name].ratios.append(seconds / times[PLAIN])
                if PIECES in times:
                    rows[name].piece_ratios.append(seconds / times[PIECES])
        return total

    # The first round warms up and gives the errors. It counts where rounds are so long that
    # starting up does not show in their time.
    first = one_round("warming up", list(running), measured=False)
    rounds = min(limits.most_rounds, max(limits.fewest_rounds, int(limits.seconds / first)))
    for index in range(1 if first > limits.seconds else 0, rounds):
        order = list(running) if index % 2 == 0 else list(reversed(running))
        one_round(f"round {index + 1} of {rounds}", order, measured=True)
    return list(rows.values())


def compiled(contender: Contender, problem: Problem, limits: Limits) -> Row:
    """The row of a contender that is compiled and not run. The problem may be of shapes."""
    row = Row(contender.name)
    _build(contender, problem, row, limits)
    return row


def _build(contender: Contender, problem: Problem, row: Row, limits: Limits) -> Built | None:
    # What an earlier contender left in JAX's tracing caches would shorten this one's compile time.
    jax.clear_caches()
    try:
        built = contender.build(problem)
    except Unavailable as reason:
        row.note = str(reason)
        return None
    except Exception as error:
        row.note = _failure("does not compile", error)
        return None
    row.memory_bytes, row.memory_source = built.memory
    row.compile_seconds, row.details = built.compile_seconds, built.details
    if built.memory.bytes > limits.memory_bytes:
        row.note = (
            f"not run: needs {built.memory.bytes / 2**30:.3g} GiB, "
            f"the limit is {limits.memory_bytes / 2**30:.3g}"
        )
        return None
    return built


def _run(built: Built, problem: Problem) -> tuple[float, Any]:
    start = time.perf_counter()
    _, gradient = jax.block_until_ready(built.run(*problem.arguments))
    return time.perf_counter() - start, gradient


def _failure(what: str, error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{what}: {type(error).__name__}: {lines[0] if lines else ''}"[:200]
