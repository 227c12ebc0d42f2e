"""What a plan is expected to take, beside the plan: bytes, seconds, and what they rest on."""

from __future__ import annotations

import dataclasses

from metagrad.runtime.byte_sizes import format_bytes
from metagrad.runtime.schedules.costs import Costs, Sizes, predict
from metagrad.runtime.schedules.plan import Plan


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What a fused program takes for a plan.

    Attributes:
      slots: bytes of all slots on the device.
      workspace: bytes of arguments, results and temporaries.
      steps: bytes that grow with the number of steps, the plan's tables among them.
      seconds: the predicted time of a run; None as long as nothing has been measured.
      costs: what `seconds` rests on.
      why: why this mode was chosen, in words; empty if there was no choice.
      recomputed: which activations are computed again, in words; empty if none are.
    """

    slots: int
    workspace: int
    steps: int
    seconds: float | None = None
    costs: Costs | None = None
    why: str = ""
    recomputed: str = ""

    @property
    def bytes(self) -> int:
        """Memory on the device, of slots, workspace and all."""
        return self.slots + self.workspace + self.steps

    def lines(self) -> list[str]:
        """The estimate as text."""
        is_measured = self.costs is not None and self.costs.measured
        unknown = "" if is_measured else " with a step's temporaries estimated"
        parts = [
            f"{format_bytes(self.slots)} of slots",
            f"{format_bytes(self.workspace)} of workspace{unknown}",
            f"{format_bytes(self.steps)} that grow with the steps",
        ]
        chosen = [f"mode       {self.why}"] if self.why else []
        lines = [*chosen, f"memory     {format_bytes(self.bytes)}: {', '.join(parts)}"]
        if self.recomputed:
            lines.append(f"remat      {self.recomputed}")
        if self.seconds is None or self.costs is None:
            return [*lines, "time       not predicted in seconds: nothing has been measured"]
        return [
            *lines,
            f"time       {format_seconds(self.seconds)} predicted",
            f"costs      {costs_line(self.costs)}",
        ]


def costs_line(costs: Costs) -> str:
    """Costs in a line of text, and whether they were measured."""
    units = ", ".join(
        f"{name} {format_seconds(seconds)}"
        for name, seconds in (
            ("gradient", costs.inner),
            ("update", costs.update + costs.step),
            ("VJP", costs.vjp),
            ("state to a slot", costs.state_write),
            ("gradient to a slot", costs.gradient_write),
        )
    )
    source = "measured on this machine" if costs.measured else "estimated, not measured"
    return f"{units}; {source}"


def estimated(plan: Plan, sizes: Sizes, costs: Costs | None = None) -> Plan:
    """The plan with its estimate: `.bytes`, `.predicted_seconds`, and both in `str()`.

    Args:
      plan: any plan of a fused program.
      sizes: bytes.
      costs: seconds; None: there is no prediction of the time.
    """
    estimate = Estimate(
        slots=plan.slot_bytes(sizes.state, sizes.gradient),
        workspace=sizes.workspace,
        steps=plan.steps * sizes.step + plan.table_bytes,
        seconds=None if costs is None else predict(plan, costs),
        costs=costs,
    )
    return dataclasses.replace(plan, estimate=estimate)


def format_seconds(seconds: float) -> str:
    """A time for a message: "12.3 ms", "1.50 s", "2 h 05 min"."""
    if seconds >= 3600:
        minutes = round(seconds / 60)
        return f"{minutes // 60:,} h {minutes % 60:02} min"
    if seconds >= 120:
        whole = round(seconds)
        return f"{whole // 60} min {whole % 60:02} s"
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("us", 1e6)):
        if seconds * factor >= 1:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"
