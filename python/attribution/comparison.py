"""`metagrad.attribution.compare`: methods side by side, with their price in plain trainings."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from metagrad.attribution import clock
from metagrad.attribution.leave_k_out import leave_k_out
from metagrad.attribution.linear_datamodelling import LDS, lds
from metagrad.attribution.retraining import Retrained
from metagrad.attribution.score_table import Scores


@dataclasses.dataclass(frozen=True)
class Row:
    """One method.

    Attributes:
      method: its name.
      seconds: that it took, compilation not among them.
      trainings: the same in plain trainings.
      lds: by the name of the subsets.
      slope: of true over predicted changes, the mean over the queries, by the name of the subsets.
    """

    method: str
    seconds: float
    trainings: float
    lds: dict[str, LDS]
    slope: dict[str, float]

    def as_dict(self) -> dict[str, Any]:
        """What json can hold."""
        scores = {
            name: {"lds": score.value, "interval": score.interval, "slope": self.slope[name]}
            for name, score in self.lds.items()
        }
        return {
            "method": self.method,
            "seconds": self.seconds,
            "trainings": self.trainings,
        } | scores


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Methods side by side; printing it shows a table.

    Attributes:
      rows: one for each method.
      training_seconds: of one plain training.
    """

    rows: tuple[Row, ...]
    training_seconds: float

    def __str__(self) -> str:
        names = list(self.rows[0].lds)
        width = max(len(row.method) for row in self.rows)
        heads = "  ".join(f"{name:^20}" for name in names)
        lines = [f"{'':{width}}  trainings  {heads}".rstrip()]
        for row in self.rows:
            each = (
                f"{s.value:6.3f} [{s.interval[0]:.2f}, {s.interval[1]:.2f}]"
                for s in row.lds.values()
            )
            lines.append(f"{row.method:{width}}  {row.trainings:9.1f}  " + "  ".join(each))
        return "\n".join(lines)


def compare(
    methods: Mapping[str, Callable[[], Scores]],
    retrained: Mapping[str, Retrained],
    *,
    repeat: int = 5,
) -> Comparison:
    """Runs methods, times them, and takes the linear datamodelling score of each.

    Args:
      methods: by name, functions without arguments that return `Scores`.
      retrained: by name, trainings on subsets: `{"half": retrain(...)}`.
      repeat: how often each method is timed, after a first run that compiles. The fastest counts,
        as it does for plain training. On a CPU seconds are the processor's, on all threads.

    Returns:
      A `Comparison`: for each method the scores, the seconds, and these over the seconds of one
      plain training.

    Raises:
      TypeError: a method is not a function, or `retrained` has no names.
      ValueError: there are no methods or no trainings.
    """
    if not isinstance(retrained, Mapping):
        raise TypeError(
            'retrained must be a dict of what `retrain` returned, {"half": retrained}, and is a '
            f"{type(retrained).__name__}"
        )
    for name, method in methods.items():
        if not callable(method):
            raise TypeError(
                f"methods[{name!r}] must be a function without arguments, which is timed: "
                f"lambda: attribution.scores(...). It is a {type(method).__name__}."
            )
    if not methods or not retrained:
        raise ValueError("compare needs at least one method, and one retrained set of subsets")
    plain = min(each.seconds for each in retrained.values())
    rows = tuple(_row(name, method, retrained, plain, repeat) for name, method in methods.items())
    return Comparison(rows, plain)


def _row(
    name: str,
    method: Callable[[], Scores],
    retrained: Mapping[str, Retrained],
    plain: float,
    repeat: int,
) -> Row:
    scores = method()
    seconds = _seconds(method, repeat)
    by_lds = {key: lds(scores, each) for key, each in retrained.items()}
    slopes = {key: float(leave_k_out(scores, each).slope.mean()) for key, each in retrained.items()}
    return Row(name, seconds, seconds / plain, by_lds, slopes)


def _seconds(method: Callable[[], Scores], repeat: int) -> float:
    times = []
    for _ in range(max(1, repeat)):
        began = clock.now()
        method()
        times.append(clock.now() - began)
    return min(times)
