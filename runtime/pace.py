"""How long a step and a VJP take, measured while a run goes on."""

from __future__ import annotations

VJP_IN_STEPS = 3.0
"""A VJP in units of a step, until one has been measured or predicted.

A step's gradient has three products of matrices for each of the model's, and its VJP by forward
over reverse has eight.
"""

_HALF_LIFE = 60.0
"""Seconds of work after which what was measured before them counts half."""


class _Mean:
    """Seconds per piece of work of one kind, late pieces counting more than early ones."""

    def __init__(self) -> None:
        self.seconds = self.count = 0.0

    def add(self, seconds: float, count: float) -> None:
        fading = 0.5 ** (seconds / _HALF_LIFE)
        self.seconds = self.seconds * fading + seconds
        self.count = self.count * fading + count

    @property
    def pace(self) -> float | None:
        return self.seconds / self.count if self.count else None


class Pace:
    """Seconds per step and per VJP.

    Args:
      predicted: both, where they are known before the run. What is measured replaces them.
    """

    def __init__(self, predicted: tuple[float, float] | None = None):
        self._predicted = predicted
        self._ratio = predicted[1] / predicted[0] if predicted else VJP_IN_STEPS
        self._step, self._vjp = _Mean(), _Mean()

    def add(self, seconds: float, steps: int, vjps: int) -> None:
        """`seconds` went into so many steps and VJPs.

        Where there are both, the time is divided in the ratio of what they took until now.
        """
        if steps <= 0 and vjps <= 0:
            return
        step, vjp = self.estimate() or (1.0, self._ratio)
        whole = steps * step + vjps * vjp
        if steps > 0:
            self._step.add(seconds * steps * step / whole, steps)
        if vjps > 0:
            self._vjp.add(seconds * vjps * vjp / whole, vjps)

    def estimate(self) -> tuple[float, float] | None:
        """Seconds per step and per VJP; None if nothing is known."""
        step, vjp = self._step.pace, self._vjp.pace
        if step is not None:
            return step, step * self._ratio if vjp is None else vjp
        return self._predicted if vjp is None else (vjp / self._ratio, vjp)
