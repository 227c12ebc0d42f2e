"""What the parts of a run cost: bytes, and seconds.

`Sizes` are known once a step has been traced. `Costs` are measured on the machine that runs the
plan (`metagrad.runtime.schedules.measured_costs`), or estimated from counts of operations; then
they say so.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from metagrad.runtime.schedules.plan import Plan

_FORMAT = 1


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Bytes.

    Attributes:
      state: what a state slot holds of one state.
      gradient: the inner gradients of one step; 0 if the step has none that can be kept.
      workspace: what the program needs beside its slots and whatever the number of steps is:
        arguments, results, temporaries.
      step: what it needs for each training step, whatever the plan is: a batch, a row of stacked
        aux, the gradient in a batch.
      batch: one batch; part of `step` in a fused program. A streamed run holds those of a segment.

    Raises:
      TypeError, ValueError: a field is not an int, or negative.
    """

    state: int
    gradient: int
    workspace: int = 0
    step: int = 0
    batch: int = 0

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"Sizes.{field.name} must be an int, got {value!r}")
            if value < 0:
                raise ValueError(f"Sizes.{field.name} must not be negative, got {value}")

    def fixed(self, steps: int) -> int:
        """Bytes that a program of `steps` steps needs beside its slots and the plan's tables."""
        return self.workspace + steps * self.step


@dataclasses.dataclass(frozen=True)
class Costs:
    """Seconds of each part of a run, bytes per second of each way to store a state.

    Attributes:
      sizes: bytes.
      inner: s; the inner gradients of one step.
      update: s; the optimiser's update of one step. A step is `inner` and `update`.
      vjp: s; the VJP of one step whose gradient is kept. One that computes its gradient on the
        spot takes `inner` and `vjp`.
      step, run, segment: s; the loop's own work for each step, each run of steps, each segment.
      slot_make: bytes/s; a program makes its slots anew in each run, and clears them.
      slot_write, slot_read: bytes/s; to and from a slot on the device.
      host_write, host_read: bytes/s; between the device and the host's memory.
      disk_write, disk_read: bytes/s; between the device and the disk.
      call: s; what a call of a compiled program takes beside all that.
      measured: whether they were measured on this machine. If not, they are estimated.

    Rates may be `math.inf`: that way is free.

    Raises:
      TypeError, ValueError: a field is not a number, or out of range.
    """

    sizes: Sizes
    inner: float
    update: float
    vjp: float
    step: float = 0.0
    run: float = 0.0
    segment: float = 0.0
    slot_make: float = math.inf
    slot_write: float = math.inf
    slot_read: float = math.inf
    host_write: float = math.inf
    host_read: float = math.inf
    disk_write: float = math.inf
    disk_read: float = math.inf
    call: float = 0.0
    measured: bool = False

    def __post_init__(self):
        for name in _SECONDS + _RATES:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise TypeError(f"Costs.{name} must be a number, got {value!r}")
            least_missed = not value > 0 if name in _RATES else not 0 <= value < math.inf
            if least_missed:
                wanted = "positive" if name in _RATES else "finite and not negative"
                raise ValueError(f"Costs.{name} must be {wanted}, got {value!r}")
            object.__setattr__(self, name, float(value))

    @property
    def advance(self) -> float:
        """Seconds of a step run with its gradient."""
        return self.inner + self.update + self.step

    @property
    def gradient_write(self) -> float:
        """Seconds to write the gradients of one step into a slot."""
        return self.sizes.gradient / self.slot_write

    @property
    def gradient_read(self) -> float:
        """Seconds to read the gradients of one step from a slot."""
        return self.sizes.gradient / self.slot_read

    @property
    def rebuild(self) -> float:
        """Seconds of a step made again from its kept gradient."""
        return self.update + self.step + self.gradient_read

    @property
    def keep(self) -> float:
        """Seconds to write the gradients of one step, and to read them for the VJP."""
        return self.gradient_write + self.gradient_read

    @property
    def state_write(self) -> float:
        """Seconds to write a state into a slot on the device."""
        return self.sizes.state / self.slot_write

    @property
    def state_read(self) -> float:
        """Seconds to read a state from a slot on the device."""
        return self.sizes.state / self.slot_read

    def write_seconds(self, tier: str) -> float:
        """Seconds to write a state into a slot of "device", "host" or "disk"."""
        return self.sizes.state / getattr(self, _TIERS[tier] + "_write")

    def read_seconds(self, tier: str) -> float:
        """Seconds to read a state from a slot of "device", "host" or "disk"."""
        return self.sizes.state / getattr(self, _TIERS[tier] + "_read")

    def jsonable(self) -> dict[str, Any]:
        """The costs as a dict that `json.dumps` takes. An infinite rate is null."""
        numbers = {name: getattr(self, name) for name in _SECONDS + _RATES}
        finite = {name: None if value == math.inf else value for name, value in numbers.items()}
        sizes = dataclasses.asdict(self.sizes)
        return {"format": _FORMAT, "sizes": sizes, "measured": self.measured, **finite}

    @classmethod
    def from_jsonable(cls, stored: Any) -> Costs:
        """The costs that `jsonable` stored.

        Raises:
          ValueError: `stored` is of another format, or damaged.
        """
        form = stored.get("format") if isinstance(stored, dict) else type(stored).__name__
        if form != _FORMAT:
            raise ValueError(f"not stored costs of format {_FORMAT}: found {form!r}")
        try:
            numbers = {
                name: math.inf if stored[name] is None else stored[name]
                for name in _SECONDS + _RATES
            }
            return cls(Sizes(**stored["sizes"]), measured=stored["measured"] is True, **numbers)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"the stored costs are damaged: {error!r}") from error


_SECONDS = ("inner", "update", "vjp", "step", "run", "segment", "call")
_RATES = (
    "slot_make",
    "slot_write",
    "slot_read",
    "host_write",
    "host_read",
    "disk_write",
    "disk_read",
)
_TIERS = {"device": "slot", "host": "host", "disk": "disk"}

COUNTS = (
    "advances",
    "updates",
    "vjps",
    "gradients_on_the_spot",
    "keeps",
    "gradient_reads",
    "saves",
    "loads",
    "runs",
    "segments",
)
"""What the time of a plan is made of; `counts` gives how often a plan does each."""


def counts(plan: Plan) -> dict[str, int]:
    """How often a plan does each of `COUNTS`."""
    return {
        "advances": plan.advances,
        "updates": plan.updates,
        "vjps": plan.vjps,
        "gradients_on_the_spot": plan.gradients_on_the_spot,
        "keeps": plan.keeps,
        "gradient_reads": plan.updates + plan.vjps - plan.gradients_on_the_spot,
        "saves": plan.saves,
        "loads": plan.loads,
        "runs": plan.runs,
        "segments": plan.steps + 1,
    }


def unit_seconds(costs: Costs) -> dict[str, float]:
    """Seconds of one of each of `COUNTS`."""
    return {
        "advances": costs.advance,
        "updates": costs.update + costs.step,
        "vjps": costs.vjp,
        "gradients_on_the_spot": costs.inner,
        "keeps": costs.gradient_write,
        "gradient_reads": costs.gradient_read,
        "saves": costs.state_write,
        "loads": costs.state_read,
        "runs": costs.run,
        "segments": costs.segment,
    }


def predict(plan: Plan, costs: Costs) -> float:
    """Seconds that a program takes for a plan.

    That is its counts times their unit costs, making its slots, and a call.
    """
    seconds = unit_seconds(costs)
    slots = plan.slot_bytes(costs.sizes.state, costs.sizes.gradient)
    counted = sum(count * seconds[name] for name, count in counts(plan).items())
    return counted + slots / costs.slot_make + costs.call


def memory(plan: Plan, sizes: Sizes) -> int:
    """Bytes that a fused program takes for a plan: slots, workspace, what grows with the steps."""
    slots = plan.slot_bytes(sizes.state, sizes.gradient)
    return slots + sizes.fixed(plan.steps) + plan.table_bytes
