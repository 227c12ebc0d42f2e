"""The plan of a run in forward mode: every step is run once, and nothing is stored."""

from __future__ import annotations

import dataclasses

from metagrad.runtime.byte_sizes import format_bytes
from metagrad.runtime.displayed import preformatted
from metagrad.runtime.schedules.estimate import format_seconds


@dataclasses.dataclass(frozen=True)
class ForwardPlan:
    """What a run in forward mode does and takes. There are no slots, and no step is run again.

    Attributes:
      steps: T.
      directions: K, the entries of what `wrt` names.
      tangents: bytes of the K tangents of a state.
      workspace: bytes of arguments, results, the state and its tangents, twice; without a step's
        temporaries.
      growing: bytes that grow with the number of steps: batches, auxiliary outputs.
      seconds: the predicted time of a run; None if nothing was predicted.
      costs: what `seconds` rests on, in words.
      why: why forward mode was chosen, in words.
    """

    steps: int
    directions: int
    tangents: int
    workspace: int
    growing: int
    seconds: float | None = None
    costs: str = ""
    why: str = ""

    schedule = "forward mode"
    state_slots = gradient_slots = updates = vjps = 0

    @property
    def advances(self) -> int:
        """Steps that are run: each once."""
        return self.steps

    @property
    def bytes(self) -> int:
        """Memory on the device."""
        return self.workspace + self.growing

    @property
    def predicted_seconds(self) -> float | None:
        """The time of a run, predicted from the costs of its parts. None if they are not known."""
        return self.seconds

    def __str__(self) -> str:
        steps = "1 step" if self.steps == 1 else f"{self.steps:,} steps"
        directions = "1 direction" if self.directions == 1 else f"{self.directions:,} directions"
        lines = [
            f"forward mode: {steps}, {directions}",
            "  slots      none: no state is stored, and no step is run again",
            f"  advances   {self.steps:,}, 1.00 per step",
            f"  tangents   {directions}, {format_bytes(self.tangents)}, go along with the state",
            f"  memory     {format_bytes(self.bytes)}: {format_bytes(self.workspace)} of workspace "
            f"without a step's temporaries, {format_bytes(self.growing)} that grow with the steps",
        ]
        if self.seconds is not None:
            lines += [f"  time       {format_seconds(self.seconds)} predicted: {self.costs}"]
        if self.why:
            lines += [f"  chosen     {self.why}"]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return preformatted(str(self))
