"""When a descent ends. It is decided from the records alone, so a resumed one decides the same."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from metagrad.mgd.history import Record
from metagrad.mgd.results import Reason


@dataclasses.dataclass(frozen=True)
class StoppingRules:
    """The options of `metagrad.descent` with these names."""

    rounds: int
    seconds: float | None
    patience: int | None
    min_gain: float

    def reason(self, records: Sequence[Record]) -> Reason | None:
        """Why a descent with these records ends; None if it goes on."""
        if len(records) >= self.rounds:
            return "rounds"
        if self.seconds is not None and sum(row.seconds for row in records) >= self.seconds:
            return "seconds"
        if self.patience is not None and self._without_gain(records) >= self.patience:
            return "patience"
        return None

    def _without_gain(self, records: Sequence[Record]) -> int:
        """How many rounds have passed since a value was lower by `min_gain` than the last such."""
        lowest, rounds = float("inf"), 0
        for row in records:
            if row.value < lowest - self.min_gain:
                lowest, rounds = row.value, 0
            else:
                rounds += 1
        return rounds
