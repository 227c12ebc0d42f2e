"""What a descent notes of each round, as a table that can be printed, plotted and exported."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, overload

import numpy as np


@dataclasses.dataclass(frozen=True)
class Record:
    """One round.

    Attributes:
      round: counted from 0.
      value: the mean over seeds of the outer value, at the metaparameters before the step.
      gradient_norm: Euclidean norm of the mean gradient, over all leaves.
      step_norm: Euclidean norm of the change that the round made, after the projection.
      seconds: of the round: the problem, all metagradients, the update. The first has the
        compilation in it.
      values: the outer value of each seed.
    """

    round: int
    value: float
    gradient_norm: float
    step_norm: float
    seconds: float
    values: tuple[float, ...]


COLUMNS = ("round", "value", "gradient_norm", "step_norm", "seconds")


class History(Sequence[Record]):
    """The records of all rounds, in their order.

    Attributes:
      rows: the records, a tuple.
    """

    def __init__(self, rows: Sequence[Record] = ()):
        self.rows = tuple(rows)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> History: ...
    def __getitem__(self, index: Any) -> Any:
        return History(self.rows[index]) if isinstance(index, slice) else self.rows[index]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Record]:
        return iter(self.rows)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, History) and self.rows == other.rows

    __hash__ = None  # type: ignore[assignment]

    def column(self, name: str) -> np.ndarray:
        """One column: float64 [rounds], "round" int64 [rounds], "values" float64 [rounds, seeds].

        Raises:
          ValueError: there is no such column.
        """
        if name not in (*COLUMNS, "values"):
            raise ValueError(f"no column {name!r}; there are {', '.join((*COLUMNS, 'values'))}")
        return np.array([getattr(row, name) for row in self.rows])

    def to_pandas(self) -> Any:
        """A `pandas.DataFrame` with the round as index, and a column for each seed's value.

        Raises:
          ImportError: pandas is not installed.
        """
        try:
            import pandas  # type: ignore[import-untyped]
        except ImportError:
            raise ImportError(
                'History.to_pandas needs pandas: pip install "metagrad[examples]"'
            ) from None
        columns = {name: self.column(name) for name in COLUMNS}
        seeds = len(self.rows[0].values) if self.rows else 0
        for seed in range(seeds if seeds > 1 else 0):
            columns[f"value_{seed}"] = self.column("values")[:, seed]
        return pandas.DataFrame(columns).set_index("round")

    def plot(self, ax: Any = None) -> Any:
        """Draws the value over the rounds, the lowest so far, and each seed's value as a dot.

        Args:
          ax: matplotlib axes; None makes a figure.

        Returns:
          The axes.

        Raises:
          ImportError: matplotlib is not installed.
        """
        from metagrad.mgd.history_plot import plot

        return plot(self, ax)

    def __str__(self) -> str:
        lines = ["round        value  gradient norm    step norm  seconds"]
        lines += [
            f"{row.round:5d}  {row.value:11.5g}  {row.gradient_norm:13.4g}  "
            f"{row.step_norm:11.4g}  {row.seconds:7.2f}"
            for row in self.rows
        ]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"<History of {len(self.rows)} rounds>"
