"""The plan: how a training run of T steps is reversed, as tables of integers.

A run s_0 -> s_1 -> .. -> s_T is reversed by T + 1 segments. Segment 0 is the training run; segment
r = 1 .. T rebuilds the state s_t that the vector-Jacobian product (VJP) at t = T - r needs.

There are two kinds of slots, each with an index space of its own: a *state* slot holds a training
state s_t, a *gradient* slot holds G_t, the results of the step's inner gradients at step t. Given
s_t and G_t, the optimiser's update alone makes s_{t+1} (about 0.1 of a step). Without G_t the
gradient has to be computed (a full step).

    state slot 0 := s_0
    for r in 0 .. T:
        state := state slot load[r]
        for q in segment[r] .. segment[r + 1]:            # the runs of segment r
            for i in 0 .. run_steps[q]:
                G := gradient slot run_reuse[q] + i       if run_reuse[q] >= 0, else computed
                gradient slot run_keep[q] + i := G        if run_keep[q] >= 0
                state := update(state, G)
            state slot run_save[q] := state               if run_save[q] >= 0
        if r == 0:  the state is s_T:      the outer function and its VJP
        else:       the state is s_{T-r}:  the step's VJP, with G from gradient slot gradient[r],
                                           or computed if that is -1

A plan means this and nothing else, whichever schedule made it. `Plan.validate` runs it on step
numbers instead of states.
"""

from __future__ import annotations

import base64
import dataclasses
import functools
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np

from metagrad.runtime.displayed import preformatted

if TYPE_CHECKING:
    from metagrad.runtime.schedules.estimate import Estimate

_TABLES = ("load", "segment", "run_steps", "run_save", "run_keep", "run_reuse", "gradient")
_FORMAT = 1


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Plan:
    """How one training run is reversed.

    All tables are int32 and read-only. R is the number of runs.

    Attributes:
      steps: T, the number of training steps.
      state_slots: number of slots that hold a state. Slot 0 holds s_0 before anything runs.
      gradient_slots: number of slots that hold the inner gradients of one step.
      load: [T + 1]; the state slot that segment r starts from.
      segment: [T + 2]; the runs of segment r are segment[r] .. segment[r + 1] - 1.
      run_steps: [R]; steps that the run advances, at least one.
      run_save: [R]; the state slot that gets the state after the run, or -1.
      run_keep: [R]; -1, or the first of the gradient slots in which the run's steps leave their
          gradients.
      run_reuse: [R]; -1, or the first of the gradient slots from which the run's steps take their
          gradients.
      gradient: [T + 1]; the gradient slot that holds G for the VJP of segment r, or -1: compute it
          on the spot.
      schedule: what made the plan, as text: "LazyKary(k=4)".
      estimate: what a run of it is expected to take; None if sizes are not known.

    Raises:
      ValueError, TypeError: a table has the wrong shape, or does not hold integers.
    """

    steps: int
    state_slots: int
    gradient_slots: int
    load: np.ndarray
    segment: np.ndarray
    run_steps: np.ndarray
    run_save: np.ndarray
    run_keep: np.ndarray
    run_reuse: np.ndarray
    gradient: np.ndarray
    schedule: str = ""
    estimate: Estimate | None = None

    def __post_init__(self):
        for name, least in (("steps", 1), ("state_slots", 1), ("gradient_slots", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
                raise TypeError(f"Plan.{name} must be an int, got {value!r}")
            if value < least:
                raise ValueError(f"Plan.{name} must be at least {least}, got {value}")
            object.__setattr__(self, name, int(value))
        runs = len(self.run_steps)
        lengths = {"load": self.steps + 1, "segment": self.steps + 2, "gradient": self.steps + 1}
        for name in _TABLES:
            object.__setattr__(
                self, name, _table(name, getattr(self, name), lengths.get(name, runs))
            )

    # Counts, in training steps.

    @functools.cached_property
    def advances(self) -> int:
        """Steps run with a gradient computed for them, the T of the training run among them."""
        return int(self.run_steps[self.run_reuse < 0].sum(dtype=np.int64))

    @functools.cached_property
    def updates(self) -> int:
        """Steps run from a kept gradient: the optimiser's update alone."""
        return int(self.run_steps[self.run_reuse >= 0].sum(dtype=np.int64))

    @property
    def vjps(self) -> int:
        """VJPs of a step: one per step."""
        return self.steps

    @functools.cached_property
    def gradients_on_the_spot(self) -> int:
        """VJPs whose gradient was not kept and has to be computed for them."""
        return int(np.count_nonzero(self.gradient[1:] < 0))

    @functools.cached_property
    def keeps(self) -> int:
        """Gradients written into a slot."""
        return int(self.run_steps[self.run_keep >= 0].sum(dtype=np.int64))

    @functools.cached_property
    def saves(self) -> int:
        """States written into a slot, s_0 not counted."""
        return int(np.count_nonzero(self.run_save >= 0))

    @property
    def loads(self) -> int:
        """States read from a slot: one per segment."""
        return self.steps + 1

    @property
    def runs(self) -> int:
        return len(self.run_steps)

    # What it is expected to take.

    @property
    def bytes(self) -> int | None:
        """Memory on the device: slots, workspace and all. None if sizes are not known."""
        return None if self.estimate is None else self.estimate.bytes

    @property
    def predicted_seconds(self) -> float | None:
        """The time of a run, predicted from the costs of its parts. None if they are not known."""
        return None if self.estimate is None else self.estimate.seconds

    def slot_bytes(self, state_bytes: int, gradient_bytes: int) -> int:
        """Memory of all slots.

        Args:
          state_bytes: the size of what a slot holds of one state. The compiled program stores no
            leaf that the step does not change, and no counter.
          gradient_bytes: the size of the inner gradients of one step.
        """
        return self.state_slots * state_bytes + self.gradient_slots * gradient_bytes

    @property
    def table_bytes(self) -> int:
        """Memory of the plan's tables."""
        return sum(getattr(self, name).nbytes for name in _TABLES)

    def validate(self) -> None:
        """Runs the plan on step numbers in place of states.

        Raises:
          ValueError: a VJP would not see exactly s_t and G_t, or a slot is read before it is
            written, holds another step than the one needed, or lies outside the budget. The message
            names the segment, the run, and what the slot holds.
        """
        from metagrad.runtime.schedules.simulator import simulate

        simulate(self)

    # A plan is a value; the name of its schedule and its estimate are not part of it.

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Plan):
            return NotImplemented
        return self._scalars == other._scalars and all(
            np.array_equal(getattr(self, n), getattr(other, n)) for n in _TABLES
        )

    def __hash__(self) -> int:
        return hash((*self._scalars, self.runs, self.advances, self.updates, self.saves))

    @property
    def _scalars(self) -> tuple[int, int, int]:
        return self.steps, self.state_slots, self.gradient_slots

    def jsonable(self) -> dict[str, Any]:
        """The plan as a dict that `json.dumps` takes.

        Tables are little-endian int32, compressed by zlib, in base64.
        """
        tables = {
            name: base64.b64encode(
                zlib.compress(getattr(self, name).astype("<i4").tobytes())
            ).decode("ascii")
            for name in _TABLES
        }
        scalars = {
            name: getattr(self, name)
            for name in ("steps", "state_slots", "gradient_slots", "schedule")
        }
        return {"format": _FORMAT, **scalars, **tables}

    @classmethod
    def from_jsonable(cls, stored: dict[str, Any]) -> Plan:
        """The plan that `jsonable` stored.

        Raises:
          ValueError: `stored` is of another format, or damaged.
        """
        if not isinstance(stored, dict) or stored.get("format") != _FORMAT:
            form = stored.get("format") if isinstance(stored, dict) else type(stored).__name__
            raise ValueError(f"not a stored plan of format {_FORMAT}: found {form!r}")
        try:
            tables = {
                name: np.frombuffer(zlib.decompress(base64.b64decode(stored[name])), "<i4")
                for name in _TABLES
            }
            numbers = {name: stored[name] for name in ("steps", "state_slots", "gradient_slots")}
            fields: dict[str, Any] = numbers | tables | {"schedule": stored["schedule"]}
            return cls(**fields)
        except (KeyError, zlib.error, ValueError) as error:
            raise ValueError(f"the stored plan is damaged: {error!r}") from error

    # Text.

    def __repr__(self) -> str:
        return (
            f"<Plan {self.schedule or 'without a name'}: steps={self.steps}, "
            f"state_slots={self.state_slots}, gradient_slots={self.gradient_slots}, "
            f"advances={self.advances}, updates={self.updates}>"
        )

    def __str__(self) -> str:
        from metagrad.runtime.schedules.drawing import describe

        return describe(self)

    def _repr_html_(self) -> str:
        """The plan's counts and picture, for a notebook."""
        return preformatted(str(self))


def _table(name: str, values, length: int) -> np.ndarray:
    array = np.asarray(values)
    if array.ndim != 1 or array.shape[0] != length:
        raise ValueError(
            f"Plan.{name} must be one-dimensional of length {length}, got shape {array.shape}"
        )
    if array.size and not np.issubdtype(array.dtype, np.integer):
        raise TypeError(f"Plan.{name} must hold integers, got dtype {array.dtype}")
    limits = np.iinfo(np.int32)
    if (
        array.dtype != np.int32
        and array.size
        and (array.min() < limits.min or array.max() > limits.max)
    ):
        raise ValueError(
            f"Plan.{name} does not fit in int32: it holds {array.min()} .. {array.max()}"
        )
    # A read-only view: the caller's own array stays as it was.
    table = np.ascontiguousarray(array, np.int32).view()
    table.flags.writeable = False
    return table
