"""The loop of a descent: measure, note, update, until a rule says that it ends."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from metagrad.diagnostics.paths import enumerate_paths
from metagrad.mgd import updates
from metagrad.mgd.history import History, Record
from metagrad.mgd.problems import Evaluation
from metagrad.mgd.results import Best, DescentResult, NotFiniteError, Reason, Round
from metagrad.mgd.stopping import StoppingRules
from metagrad.mgd.variables import Variables


@dataclasses.dataclass(frozen=True)
class Position:
    """Where a descent is, between two rounds: all that the next one depends on.

    Attributes:
      floats: the floating-point leaves of the metaparameters.
      optimizer_state: the optimiser's state.
      best: the lowest so far; its `meta` has the floating-point leaves only.
      records: of the rounds that are done.
    """

    floats: Any
    optimizer_state: Any
    best: Best | None = None
    records: tuple[Record, ...] = ()


class Rounds:
    """Makes the rounds of one descent.

    Args:
      evaluation: calls the problem and the metagradient.
      update: the optimiser and the projection.
      variables: what is optimised.
      seeds: metagradients per round.
      rules: when it ends.
      callback: is shown each `Round`; True ends the descent.
      listeners: called with each `Position` that is new.
    """

    def __init__(
        self,
        evaluation: Evaluation,
        update: updates.Updates,
        variables: Variables,
        seeds: int,
        rules: StoppingRules,
        callback: Callable[[Round], object] | None,
        listeners: Sequence[Callable[[Position], None]],
    ):
        self._evaluation, self._update, self._variables = evaluation, update, variables
        self._seeds, self._rules = seeds, rules
        self._callback, self._listeners = callback, listeners

    def run(self, position: Position) -> DescentResult:
        """Goes on from a position to the end.

        Raises:
          NotFiniteError: a value or gradient is not finite.
        Other exceptions of the user's functions stay what they are. All carry the result so far as
        `descent`.
        """
        try:
            while (reason := self._rules.reason(position.records)) is None:
                before = position
                position, gradient, results = self._next(before)
                for listener in self._listeners:
                    listener(position)
                if self._callback is not None:
                    stop = self._callback(self._shown(before, position, gradient, results))
                    if _is_true(stop):
                        return self.result(position, "callback")
            return self.result(position, reason)
        except BaseException as error:
            error.descent = self.result(position, "unfinished")  # type: ignore[attr-defined]
            if position.records:
                error.add_note(
                    f"metagrad.descent had made {len(position.records)} rounds, which are in the "
                    "attribute `descent` of this exception."
                )
            raise

    def result(self, position: Position, reason: Reason) -> DescentResult:
        best = position.best
        return DescentResult(
            self._variables.merged(position.floats),
            best and dataclasses.replace(best, meta=self._variables.merged(best.meta)),
            History(position.records),
            reason,
            position.optimizer_state,
        )

    def _next(self, position: Position) -> tuple[Position, Any, list]:
        """The position after one round, its mean gradient, and what `_measure` kept."""
        began = time.perf_counter()
        round = len(position.records)
        meta = self._variables.merged(position.floats)
        value, gradient, values, results = self._measure(round, meta)
        step = self._update.step(position.floats, position.optimizer_state, value, gradient)
        self._check_finite(round, step)
        floats = self._update.projected(step.floats)
        record = Record(
            round,
            float(step.value),
            float(step.gradient_norm),
            float(updates.distance(floats, position.floats)),
            time.perf_counter() - began,
            tuple(map(float, values)),
        )
        best = position.best
        if best is None or record.value < best.value:
            best = Best(record.value, round, position.floats)
        new = Position(floats, step.optimizer_state, best, (*position.records, record))
        return new, step.gradient, results

    def _measure(self, round: int, meta: Any) -> tuple[Any, Any, list, list]:
        """The sums over seeds of value and gradient, the values, and what a callback may want."""
        value = gradient = None
        values, results = [], []
        for seed in range(self._seeds):
            arguments = self._evaluation.arguments(round, seed, meta)
            this_value, this_gradient, result = self._evaluation(arguments)
            values.append(this_value)
            if self._callback is not None:  # final states may be large
                results.append(result)
            if seed == 0:
                value, gradient = this_value, this_gradient
            else:
                value, gradient = updates.add(value, gradient, this_value, this_gradient)
        return value, gradient, values, results

    def _check_finite(self, round: int, step: updates.Step) -> None:
        are_finite = jax.device_get(step.are_finite)
        faults = [path for path, fine in zip(self._variables.paths, are_finite) if not fine]
        value = float(step.value)
        if not faults and abs(value) < float("inf"):
            return
        what = (
            f"the gradient of {enumerate_paths(faults)} is" if faults else f"the value {value} is"
        )
        raise NotFiniteError(
            f"{what} not finite in round {round}, and no step was made. Smaller steps may keep "
            "the training run from diverging; metagradient(check_nans=True) says where a NaN comes "
            "from."
        )

    def _shown(self, old: Position, new: Position, gradient: Any, results: list) -> Round:
        merged, best = self._variables.merged, new.best
        assert best is not None
        return Round(
            new.records[-1],
            merged(old.floats),
            gradient,
            merged(new.floats),
            dataclasses.replace(best, meta=merged(best.meta)),
            tuple(results),
        )


def _is_true(answer: object) -> bool:
    """Whether it is True: Python's, NumPy's or JAX's. Other values mean nothing."""
    if isinstance(answer, (np.ndarray, jax.Array)):
        return answer.dtype == np.bool_ and answer.ndim == 0 and bool(answer)
    return isinstance(answer, (bool, np.bool_)) and bool(answer)
