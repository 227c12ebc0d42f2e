"""What the kernels of a streamed run are for, and the plan of a segment as `reverse` takes it."""

from __future__ import annotations

import dataclasses

import numpy as np

from metagrad.runtime.schedules.loop_tables import (
    ANY,
    STORES_ALL,
    Features,
    LoopTables,
    loop_tables,
)
from metagrad.runtime.schedules.plan import Plan
from metagrad.runtime.schedules.two_level import SegmentSlots

KERNELS = ("advance", "outer_vjp", "reverse")
"""The programs of a streamed run (compiler/passes/kernels.py)."""

WALKS = ("walk_load", "walk_start", "walk_run", "walk_segment")
RUNS = ("run_steps", "run_save", "run_stride", "run_keep", "run_reuse", "run_update")
SEGMENTS = ("vjp_state", "vjp_gradient")


@dataclasses.dataclass(frozen=True)
class Segment:
    """What a kernel is for.

    Attributes:
      steps: L, the most steps of a segment.
      state_slots, gradient_slots: the slots of its plans.
      features: what these plans do.
      checksums: whether checksums of the state are wanted.
    """

    steps: int
    state_slots: int = 1
    gradient_slots: int = 0
    features: Features = ANY
    checksums: bool = False

    @classmethod
    def of(cls, slots: SegmentSlots, checksums: bool) -> Segment:
        """That of the plans of a segment."""
        features = ANY if slots.may_replay else STORES_ALL
        return cls(slots.steps, slots.state_slots, slots.gradient_slots, features, checksums)

    @property
    def runs(self) -> int:
        """The most runs of a plan for a segment: a gradient on the spot and two runs for each VJP,
        and the training run's."""
        return 4 * self.steps + 4

    @property
    def table_shapes(self) -> list[tuple[int, int]]:
        """Of the arrays that `tables` gives."""
        columns = (self.steps + 2, self.runs, self.steps + 1)
        return list(zip(map(len, (WALKS, RUNS, SEGMENTS)), columns))

    def tables(self, plan: Plan, *, gradients: bool) -> tuple[int, list[np.ndarray]]:
        """A plan as `reverse` takes it: the number of walks, and the tables, packed as int32
        [4, L + 2], [6, runs] and [2, L + 1].

        Args:
          plan: of at most L steps, with at most this many slots.
          gradients: whether the step has inner gradients.

        Raises:
          ValueError: the plan does what the kernel was not made for, or is too large for it.
        """
        tables = self.checked(plan, gradients=gradients)
        packed = [
            np.stack([_padded(tables.columns[name], size) for name in names])
            for names, (_, size) in zip((WALKS, RUNS, SEGMENTS), self.table_shapes)
        ]
        return len(tables.walks["walk_load"]), packed

    def checked(self, plan: Plan, *, gradients: bool) -> LoopTables:
        """The tables of a plan, as long as they are.

        Raises:
          ValueError: as `tables`.
        """
        if plan.state_slots > self.state_slots or plan.gradient_slots > self.gradient_slots:
            raise ValueError(
                f"a plan with {plan.state_slots} and {plan.gradient_slots} slots in a kernel with "
                f"{self.state_slots} and {self.gradient_slots}"
            )
        tables = loop_tables(
            plan,
            gradients=gradients,
            state_slots=self.state_slots,
            gradient_slots=self.gradient_slots,
        )
        if not self.features.allow(tables.features):
            raise ValueError(f"a plan with {tables.features} in a kernel with {self.features}")
        return tables


def _padded(column: np.ndarray, size: int) -> np.ndarray:
    if len(column) > size:
        raise ValueError(f"a plan of {len(column)} entries in a kernel for {size}")
    return np.pad(column, (0, size - len(column)))
