"""The rows of the table: a task on a transformer, batch x context tokens, T steps."""

from __future__ import annotations

from typing import NamedTuple


class Row(NamedTuple):
    """A row.

    Attributes:
      task, transformer, context, batch: as of `tasks.task`.
      steps: T.
      timed: whether it is run; otherwise it is compiled only.
    """

    task: str
    transformer: str
    context: int
    batch: int
    steps: int
    timed: bool

    @property
    def name(self) -> str:
        return f"{self.task}-{self.transformer}-{self.batch}x{self.context}-T{self.steps}"


def _rows(timed: bool, *lines: tuple) -> list[Row]:
    return [
        Row(task, transformer, context, batch, steps, timed)
        for task, transformer, batch, context, all_steps in lines
        for steps in all_steps
    ]


ROWS = [
    *_rows(
        True,
        ("rates", "0.1M", 4, 128, (2, 8, 32)),
        ("rates", "0.1M", 1, 128, (128,)),
        ("rates", "0.1M", 1, 512, (4,)),
        ("rates", "0.1M", 1, 2048, (8,)),
        ("rates", "0.8M", 4, 128, (8,)),
        ("rates", "0.8M", 2, 128, (32,)),
        ("rates", "6M", 4, 128, (2,)),
        ("maml", "0.1M", 2, 128, (4, 32)),
        ("maml", "0.8M", 2, 128, (8,)),
        ("weighting", "0.1M", 4, 128, (2, 8, 32)),
    ),
    *_rows(
        False,
        ("rates", "0.8M", 4, 128, (128,)),
        ("rates", "0.8M", 1, 4096, (8,)),
        ("rates", "6M", 4, 128, (8,)),
        ("rates", "6M", 1, 512, (2, 32, 128)),
        ("rates", "6M", 1, 2048, (8,)),
        ("maml", "0.8M", 1, 512, (32,)),
        ("maml", "6M", 4, 128, (8,)),
        ("maml", "6M", 1, 4096, (4,)),
        ("weighting", "0.8M", 2, 2048, (8,)),
        ("weighting", "6M", 2, 512, (32, 128)),
    ),
]

QUICK = _rows(True, ("rates", "0.1M", 4, 128, (8,)), ("weighting", "0.1M", 4, 128, (2,)))

BY_NAME = {row.name: row for row in (*ROWS, *QUICK)}
