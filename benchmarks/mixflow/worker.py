"""`python -m benchmarks.mixflow.worker REQUEST RESULT`: measures one row, in a process of its own.

REQUEST is JSON: {"row", "contenders", "rounds", "seconds", "memory_bytes"}. RESULT becomes JSON:
what `measured` returns. A process of its own, since what a row's programs take of memory is seen
by what the process holds, and since a program that the machine cannot hold ends no other row.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks import measure
from benchmarks.compile_time import shapes
from benchmarks.contenders.contender import Built, Contender, Problem
from benchmarks.mixflow.contenders import CONTENDERS
from benchmarks.mixflow.resident import peak_of
from benchmarks.mixflow.rows import Row
from benchmarks.mixflow.tasks import Task, drawn, task


def main() -> None:
    request = json.loads(Path(sys.argv[1]).read_text())
    Path(sys.argv[2]).write_text(json.dumps(measured(request), default=str))


def measured(request: dict[str, Any]) -> dict[str, Any]:
    """A row of the record: its names, the state's bytes, and what `measure.Row` has for each."""
    row = Row(*request["row"])
    of = task(row.task, row.transformer, row.context, row.batch)
    peaks: dict[str, int | None] = {}
    contenders = [watched(CONTENDERS[name], peaks) for name in request["contenders"]]
    limits = measure.Limits(
        request["rounds"], min(3, request["rounds"]), request["seconds"], request["memory_bytes"]
    )
    problem = placed(of, row.steps) if row.timed else shapes(of, row.steps)
    if row.timed:
        rows = measure.measure(problem, contenders, Agreement(), limits, tell)
    else:
        rows = [measure.compiled(each, problem, limits) for each in contenders]
    results = {each.contender: each.jsonable() for each in rows}
    for name, each in results.items():
        each["resident_bytes"] = peaks.get(name)
        each["details"].pop("explain", None)
    return row._asdict() | {
        "name": row.name,
        "description": of.description,
        "state_bytes": problem.state_bytes,
        "contenders": results,
    }


class Agreement:
    """Stands for a reference: how far a gradient is from the first contender's.

    That is the largest deviation of an entry, relative to the largest entry of its leaf, in f32.
    Whether the gradients are right is a test's question (tests/mixflow), in f64; here one sees that
    all compute the same.
    """

    def __init__(self) -> None:
        self._first: list[np.ndarray] | None = None

    def error(self, gradient: Any) -> float:
        leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(gradient)]
        leaves = [leaf for leaf in leaves if leaf.dtype == np.float32]
        if self._first is None:
            self._first = leaves
        # TorchOpt's gradient is that of the parameters alone, the first part of a state.
        return max(
            float(np.max(np.abs(leaf - first)) / np.max(np.abs(first)))
            for leaf, first in zip(leaves, self._first)
            if np.any(first)
        )


def watched(contender: Contender, peaks: dict[str, int | None]) -> Contender:
    """The contender, whose first run tells the peak of the process's memory."""

    def build(problem: Problem) -> Built:
        built = contender.build(problem)

        def run(*arguments):
            if contender.name in peaks:
                return built.run(*arguments)
            results, peaks[contender.name] = peak_of(
                lambda: jax.block_until_ready(built.run(*arguments))
            )
            return results

        return Built(run, built.memory, built.compile_seconds, built.details)

    return Contender(contender.name, build)


def placed(of: Task, steps: int) -> Problem:
    return Problem(of, steps, *jax.block_until_ready(drawn(of, steps)))


def tell(what: str, done: int, total: int) -> None:
    print(f"{what} ({done}/{total})", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
