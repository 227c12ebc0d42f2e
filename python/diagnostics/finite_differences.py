"""What central differences of a run say of a directional derivative, over a range of step sizes.

    D(h) = (f(h) - f(-h)) / 2h

Of a smooth f it settles on the derivative as h shrinks: its error is f''' h^2 / 6, and about e / h
from rounding, where e is the noise in f. Where D settles, it settles on one number over a range of
sizes. If that is not the metagradient, the metagradient is not the derivative of f.

Of a run with kinks (relu, max, a comparison) D jumps whenever a kink enters [-h, h]. With many of
them it never settles before rounding takes over, and then no step size can be right or wrong. So
the noise is measured, and scatter above it is told from rounding.

The noise is measured as in Moré and Wild, Estimating Computational Noise (SIAM J. Sci. Comput. 33,
2011): by third differences of f at points a few units in the last place apart.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

SAFETY = 10.0
"""How many times the noise the rounding error of f(h) - f(-h) is taken to be at most."""

SETTLED = 0.02
"""D has settled where it stays within this part of its size."""

PREDICTS = 0.1
"""The derivative is said to predict a change of f if it does so to this part."""

ROUGH = 1e-2
"""A run that the derivative does not predict for steps of this size is not smooth, unless the error
grows as that of a smooth function does."""

AGREES, DISAGREES, NOT_SMOOTH, CANNOT_TELL = "agrees", "disagrees", "not smooth", "cannot tell"


@dataclasses.dataclass(frozen=True)
class DirectionCheck:
    """The metagradient against central differences along one direction.

    Attributes:
      name: "gradient", or "random 1", "random 2", ..., or "the entry" where one entry moves.
      metagradient: its product with the direction. Where one entry moves this is the gradient's
        own entry. Where one leaf moves, the direction's entries have the root mean square 1. Where
        several do, those of each leaf are about the leaf's root mean square. The differences, the
        estimate, its error and the kink are derivatives along the same direction.
      step_sizes: from large to small, without a unit. A step of size h moves each entry by about h
        times the root mean square of its leaf.
      differences: the central difference for each size; NaN where the run is not finite.
      rounding: for each size, the error by rounding that has to be expected at most.
      estimate: the number on which the differences settle; NaN if on none.
      error: how far from the derivative the estimate has to be expected, by its neighbours and by
        rounding.
      least: a tenth of the metagradient's typical product with a random direction.
      settled: the smallest and the largest step size of the range in which they settle, or None.
      predicts_to: the largest step size up to which the metagradient is within 10% of the
        differences; 0 if there is none.
      kink: the slope to the right less the slope to the left, if that does not vanish as the step
        size shrinks; else 0.
      verdict: "agrees", "disagrees", "not smooth" or "cannot tell" (rounding covers it).
    """

    name: str
    metagradient: float
    step_sizes: tuple[float, ...]
    differences: tuple[float, ...]
    rounding: tuple[float, ...]
    estimate: float
    error: float
    least: float
    settled: tuple[float, float] | None
    predicts_to: float
    kink: float
    verdict: str

    def divided_by(self, unit: float) -> DirectionCheck:
        """The same check along a direction that is shorter by this factor."""
        return dataclasses.replace(
            self,
            metagradient=self.metagradient / unit,
            differences=tuple(number / unit for number in self.differences),
            rounding=tuple(number / unit for number in self.rounding),
            estimate=self.estimate / unit,
            error=self.error / unit,
            least=self.least / unit,
            kink=self.kink / unit,
        )

    @property
    def is_nowhere_finite(self) -> bool:
        """Whether the run is finite at no step along the direction."""
        return bool(self.differences) and bool(np.isnan(self.differences).all())

    @property
    def scale(self) -> float:
        """What errors are relative to: the larger of the two, or `least`."""
        return max(abs(self.metagradient), abs(float(np.nan_to_num(self.estimate))), self.least)

    @property
    def relative_error(self) -> float:
        """Metagradient less estimate, relative; NaN without an estimate."""
        off = abs(self.metagradient - self.estimate)
        return off / self.scale if off else off

    @property
    def resolution(self) -> float:
        """How far from the derivative the estimate has to be expected, relative."""
        return self.error / self.scale if self.scale else self.error


def noise(f: Callable[[float], float], spacing: float) -> float:
    """The standard deviation of the rounding errors of f near 0, from third differences."""
    values = np.array([f(i * spacing) for i in range(1, 9)])
    # 20 is the sum of the squares of 1, 3, 3, 1. The median, for a kink among the points.
    measured = 1.5 * np.median(np.abs(np.diff(values, 3))) / np.sqrt(20)
    # The value is rounded itself.
    return float(max(measured, spacing / 16 * np.abs(values[0])))


def judge(
    name: str,
    f: Callable[[float], float],
    metagradient: float,
    step_sizes: tuple[float, ...],
    epsilon: float,
    least: float,
) -> DirectionCheck:
    """Takes the differences along one direction, and judges.

    Args:
      f: the run's value at a step of some size along the direction.
      step_sizes: from large to small.
      epsilon: the unit in the last place of the floats that the run is made of, at 1.
      least: a derivative is not compared more closely than to a part of this, so that a direction
        in which little moves is not judged by its own size alone.
    """
    value = f(0.0)
    h = np.array(step_sizes)
    right, left = np.array([f(s) for s in step_sizes]), np.array([f(-s) for s in step_sizes])
    with np.errstate(invalid="ignore", over="ignore"):  # the run may not be finite everywhere
        central = (right - left) / (2 * h)
        bend = (right + left - 2 * value) / h
        noise_of_f = noise(f, 8 * epsilon)
    central = np.where(np.isfinite(central), central, np.nan)
    series = _Series(h, central, SAFETY * noise_of_f / h, bend)
    # The derivative may be zero here, of a function that moves elsewhere.
    moves = np.abs(central[:3])[np.nan_to_num(central[:3]) != 0]
    least = max(least, 1e-6 * float(moves.min(initial=np.inf)) if moves.size else 0.0)
    # A metagradient in these floats is not closer, and may have lost as much as f has.
    lost = max(epsilon, noise_of_f / max(abs(value), 1e-300))
    judged = series.judge(metagradient, least, min(10 * np.sqrt(lost), PREDICTS))
    return DirectionCheck(
        name,
        float(metagradient),
        tuple(map(float, h)),
        tuple(map(float, series.central)),
        tuple(map(float, series.rounding)),
        **judged,
    )


@dataclasses.dataclass(frozen=True)
class _Series:
    """Differences by step size, from large to small: central, rounding, and slope right - left."""

    h: np.ndarray
    central: np.ndarray
    rounding: np.ndarray
    bend: np.ndarray

    def judge(self, g: float, least: float, tolerance: float) -> dict:
        plateau = self._plateau(g, least)
        if plateau is None:
            verdict = self._without_plateau(g)
            return _judged(np.nan, np.nan, least, None, self._predicts_to(g, least), 0.0, verdict)
        estimate, error = self._estimate(plateau)
        scale = max(abs(g), abs(estimate), least)
        # A plateau above sizes that scatter is no limit, and a change of slope there no kink.
        is_limit = plateau[-1] == self._resolved(g, least)[-1]
        kink = self._kink(plateau, scale) if is_limit else 0.0
        reach = self._predicts_to(g, least)
        if abs(estimate - g) <= error + tolerance * scale:
            rough = self._is_rough(g, scale, reach)
            verdict = NOT_SMOOTH if rough else AGREES
        elif kink or not self._is_tight(plateau, g, estimate):
            verdict = NOT_SMOOTH
        else:
            verdict = DISAGREES
        ends = float(self.h[plateau[-1]]), float(self.h[plateau[0]])
        return _judged(estimate, error, least, ends, reach, kink, verdict)

    def _scale(self, where, g: float, least: float) -> float:
        return max(abs(g), float(np.max(np.abs(self.central[where]))), least)

    def _resolved(self, g: float, least: float) -> list[int]:
        """The sizes at which rounding is small beside the derivative, from large to small."""
        return [
            i
            for i in range(len(self.h))
            if np.isfinite(self.central[i])
            and self.rounding[i] <= SETTLED * self._scale([i], g, least)
        ]

    def _plateau(self, g: float, least: float) -> list[int] | None:
        """The range nearest to 0 in which the differences settle, from large to small."""
        resolved = self._resolved(g, least)
        length = 3 if len(resolved) < 8 else 4
        for last in range(len(resolved), length - 1, -1):
            window = resolved[last - length : last]
            values = self.central[window]
            slack = SETTLED * self._scale(window, 0.0, least) + 2 * self.rounding[window].max()
            if values.max() - values.min() > slack:
                continue
            first = last - length
            while first > 0 and abs(self.central[resolved[first - 1]] - values.mean()) <= slack:
                first -= 1
            return resolved[first:last]
        return None

    def _estimate(self, plateau: list[int]) -> tuple[float, float]:
        """The difference that is nearest to its neighbours, and its error."""
        values = self.central[plateau]
        steps = np.abs(np.diff(values))
        apart = np.maximum(np.append(0, steps), np.append(steps, 0))
        errors = apart + self.rounding[plateau]
        best = int(np.argmin(errors))
        return float(values[best]), float(errors[best])

    def _is_tight(self, plateau: list[int], g: float, estimate: float) -> bool:
        """Whether all differences from the estimate's down are much nearer to it than to g.

        If they are not, the plateau is one of several, or an accident.
        """
        best = plateau[int(np.argmin(np.abs(self.central[plateau] - estimate)))]
        below = [i for i in range(best, len(self.h)) if np.isfinite(self.central[i])]
        apart = np.abs(self.central[below] - estimate) - self.rounding[below]
        return bool((apart <= abs(estimate - g) / 3).all())

    def _kink(self, plateau: list[int], scale: float) -> float:
        """The change of slope at the very point.

        In a smooth function slope right less slope left shrinks as h does.
        """
        small, large = plateau[-1], plateau[max(0, len(plateau) - 3)]
        bend, before = self.bend[small], self.bend[large]
        clear = abs(bend) > max(4 * self.rounding[small], 1e-3 * scale)
        return float(bend) if clear and abs(bend) > 0.5 * abs(before) else 0.0

    def _predicts_to(self, g: float, least: float) -> float:
        reach = 0.0
        for i in reversed(self._resolved(g, least)):
            off = abs(self.central[i] - g) - self.rounding[i]
            if off > PREDICTS * self._scale([i], g, least):
                break
            reach = float(self.h[i])
        return reach

    def _is_rough(self, g: float, scale: float, reach: float) -> bool:
        """Whether steps beyond `reach` cross kinks or jumps, so that the derivative is of no use.

        The error of a smooth function grows with the square of h. Past a single kink it grows with
        h as well. What shows many kinks, or jumps, is an error that grows as h shrinks.
        """
        errors = np.abs(self.central - g)
        large = errors > PREDICTS * scale + self.rounding
        worse = large[1:] & (errors[1:] > 1.5 * errors[:-1])
        if worse.sum() >= 2:
            return True
        if reach >= min(ROUGH, self.h[0]):
            return False
        growing: list[int] = []
        for i in reversed(range(len(self.h))):
            if errors[i] > 3 * PREDICTS * scale:
                break
            if errors[i] > max(3 * self.rounding[i], 1e-9 * scale):
                growing.append(i)
        if len(growing) < 3:
            return True
        orders = np.diff(np.log(errors[growing])) / np.diff(np.log(self.h[growing]))
        return bool(orders.min() < 1.2 or orders.max() > 3.2)

    def _without_plateau(self, g: float) -> str:
        finite = np.isfinite(self.central)
        scatter = np.abs(self.central - g)[finite] - self.rounding[finite]
        if not finite.any():
            return CANNOT_TELL
        if (scatter <= 0).all():  # rounding explains all of it
            return AGREES if g == 0 else CANNOT_TELL
        resolved = self.rounding <= PREDICTS * np.abs(self.central)
        return NOT_SMOOTH if (finite & resolved).sum() >= 3 else CANNOT_TELL


def _judged(estimate, error, least, settled, predicts_to, kink, verdict) -> dict:
    return {
        "estimate": float(estimate),
        "error": float(error),
        "least": float(least),
        "settled": settled,
        "predicts_to": predicts_to,
        "kink": kink,
        "verdict": verdict,
    }


def together(checks: list[DirectionCheck]) -> str:
    """The verdict over several directions."""
    counts = {v: sum(check.verdict == v for check in checks) for v in (AGREES, DISAGREES)}
    rough = sum(check.verdict == NOT_SMOOTH for check in checks)
    if counts[DISAGREES] > rough:
        return DISAGREES
    if rough and rough >= counts[AGREES]:
        return NOT_SMOOTH
    # Along a direction with no difference at all nothing was compared.
    if not counts[AGREES] or any(check.is_nowhere_finite for check in checks):
        return CANNOT_TELL
    return AGREES
