"""What a descent returns, what it shows its callback, and its error."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from metagrad.mgd.history import History, Record

Reason = Literal["rounds", "seconds", "patience", "callback", "unfinished"]


@dataclasses.dataclass(frozen=True)
class Best:
    """The round with the lowest value so far; the first of them, where several have it.

    Attributes:
      value: the mean over seeds.
      round: which round it was.
      meta: the metaparameters that it was measured at.
    """

    value: float
    round: int
    meta: Any


@dataclasses.dataclass(frozen=True)
class DescentResult:
    """A descent, finished or as far as it came.

    Attributes:
      meta: the metaparameters after the last update. Nothing has been measured at them: a round
        measures what the one before it made.
      best: the round with the lowest value; None before the first.
      history: a `Record` for each round.
      reason: why it ended: "rounds", "seconds" or "patience" (the options of these names),
        "callback" (it returned True), or "unfinished" (an exception carries this result).
      optimizer_state: the optimiser's state after the last update.
    """

    meta: Any
    best: Best | None
    history: History
    reason: Reason
    optimizer_state: Any

    def __repr__(self) -> str:
        best = (
            "" if self.best is None else f", best {self.best.value:.6g} in round {self.best.round}"
        )
        return f"<DescentResult of {len(self.history)} rounds, reason {self.reason!r}{best}>"


@dataclasses.dataclass(frozen=True)
class Round:
    """What a callback is shown after each round.

    Attributes:
      record: the round's numbers.
      meta: the metaparameters that the round measured.
      gradient: their mean gradient; None for leaves that are not floating-point.
      new_meta: the metaparameters that the round made.
      best: the lowest so far, this round among them.
      results: what the metagradient returned, one for each seed: `results[0].state` is the state in
        which the first training run ended.
    """

    record: Record
    meta: Any
    gradient: Any
    new_meta: Any
    best: Best
    results: tuple[Any, ...]


class NotFiniteError(FloatingPointError):
    """A round's value or gradient is not finite, so there is no step to make.

    Attributes:
      descent: a `DescentResult` of the rounds before it.
    """

    descent: DescentResult
