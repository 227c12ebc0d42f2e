"""What `metagrad.metasmoothness` returns: the numbers, and what they mean in words."""

from __future__ import annotations

import dataclasses
import math
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np

from metagrad.frontend.jaxprs.cuts import Place
from metagrad.smoothness.derivative_change import FunctionSmoothness

UNDECIDED = 0.05
"""Rounding decides a result from this share of the movement on."""

_WIDTH = 100


@dataclasses.dataclass(frozen=True)
class DirectionSmoothness:
    """How smooth a training routine is along one direction, with one step size.

    Attributes:
      direction: the direction's name: "v", "v[0]", "random 0".
      h: the step size.
      value: Definition 2, in [-1, 1].
      leaves: the value of each parameter leaf alone, by its path; NaN for one that does not move.
      shares: each leaf's share of the movement, by its path.
      movement: the L1 norms of the two movements of the parameters.
      undecided: the share of the movement in parameters where rounding may have made either sign.
      outcome: Definition 1 of the outcome by differences; None if there is no outcome.
    """

    direction: str
    h: float
    value: float
    leaves: dict[str, float]
    shares: dict[str, float]
    movement: tuple[float, float]
    undecided: float
    outcome: FunctionSmoothness | None

    @property
    def bounds(self) -> tuple[float, float]:
        """Between these the value lies, whatever the undecided signs are."""
        low, high = self.value - 2 * self.undecided, self.value + 2 * self.undecided
        return max(low, -1.0), min(high, 1.0)


@dataclasses.dataclass(frozen=True, repr=False)
class Metasmoothness:
    """How smooth a training routine is in its configuration. `str()` is a text with a table.

    Attributes:
      entries: one for each direction and step size, directions first.
      dtype: the narrowest dtype of the parameters' floats.
      is_double: whether everything was computed in float64.
      kinks: the operations with a kink or a jump between configuration and parameters.
      narrow: those that round to narrower floats.
      trainings: how many trainings it took.
    """

    entries: tuple[DirectionSmoothness, ...]
    dtype: str
    is_double: bool
    kinks: tuple[Place, ...]
    narrow: tuple[Place, ...]
    trainings: int

    @property
    def directions(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(each.direction for each in self.entries))

    @property
    def steps(self) -> tuple[float, ...]:
        return tuple(dict.fromkeys(each.h for each in self.entries))

    @property
    def values(self) -> np.ndarray:
        """Definition 2, float64 [directions, step sizes]."""
        return self._table_of("value")

    @property
    def undecided(self) -> np.ndarray:
        """The share of the movement whose sign rounding may decide, [directions, step sizes]."""
        return self._table_of("undecided")

    @property
    def value(self) -> float:
        """The mean over directions and step sizes."""
        return float(self.values.mean())

    @property
    def standard_error(self) -> float:
        """That of the mean over directions; NaN for a single one."""
        means = self.values.mean(axis=1)
        return float(means.std(ddof=1) / math.sqrt(len(means))) if len(means) > 1 else math.nan

    @property
    def is_decided_by_rounding(self) -> bool:
        """Whether rounding may have made the signs of more than 5% of the movement somewhere."""
        return bool((self.undecided > UNDECIDED).any())

    def rows(self) -> list[dict[str, Any]]:
        """One dictionary for each entry: `pandas.DataFrame(result.rows())` is a table."""
        return [
            {
                "direction": each.direction,
                "h": each.h,
                "value": each.value,
                "undecided": each.undecided,
                "first movement": each.movement[0],
                "second movement": each.movement[1],
            }
            | ({"outcome change": each.outcome.value} if each.outcome else {})
            for each in self.entries
        ]

    def _table_of(self, name: str) -> np.ndarray:
        numbers = [getattr(each, name) for each in self.entries]
        return np.reshape(np.array(numbers, float), (len(self.directions), len(self.steps)))

    def __str__(self) -> str:
        paragraphs = [self._headline(), *self._about_rounding(), *self._about_places()]
        return "\n".join([*map(_wrapped, paragraphs), "", self._table(), *self._worst_leaves()])

    __repr__ = __str__

    def _headline(self) -> str:
        error = self.standard_error
        spread = "" if math.isnan(error) else f" +- {error:.2f} (standard error over directions)"
        return (
            f"metasmoothness: {self.value:.3f}{spread}. 1 means that on a second step of the "
            "configuration every parameter moves on as it did on the first; about -0.5, that "
            "the trainings have nothing in common; -1, that all parameters turn back. In "
            f"{self.dtype}, {self.trainings} trainings."
        )

    def warning(self) -> str:
        """What to know where rounding decides; empty where it does not."""
        if not self.is_decided_by_rounding:
            return ""
        remedy = (
            "Take a larger h."
            if self.is_double
            else "Take a larger h, or x64=True, which trains in float64."
        )
        return (
            f"rounding may decide the signs of up to {self.undecided.max():.0%} of the movement "
            f"of the parameters in {self.dtype}, so the metasmoothness is not that of the training "
            f"routine but of its rounding. {remedy}"
        )

    def _about_rounding(self) -> list[str]:
        words = [f"Warning: {text}"] if (text := self.warning()) else []
        if self.narrow:
            words.append(
                f"Products or conversions in narrower floats: {_listed(self.narrow, '.narrow')}. "
                "They make the routine a staircase and flip signs of small second steps. Make the "
                'products in float32 (`jax.default_matmul_precision("highest")` on a GPU or TPU).'
            )
        return words

    def _about_places(self) -> list[str]:
        if not self.kinks:
            return []
        return [f"Operations with a kink or a jump on the way: {_listed(self.kinks, '.kinks')}."]

    def _table(self) -> str:
        has_outcome = any(each.outcome for each in self.entries)
        titles = ["direction", "h", "value", "undecided", "movement 1", "movement 2"]
        lines = [_row([*titles, *(["d(slope)/h", "of slope"] if has_outcome else [])])]
        for each in self.entries:
            cells = [each.direction, f"{each.h:.3g}", f"{each.value:.3f}", f"{each.undecided:.1%}"]
            cells += [f"{norm:.3g}" for norm in each.movement]
            if each.outcome:
                about = "~" if each.outcome.value <= each.outcome.resolution else ""
                cells += [f"{about}{each.outcome.value:.3g}"]
                cells += [f"{about}{each.outcome.relative_change:.0%}"]
            lines.append(_row(cells))
        if any("~" in line for line in lines):
            lines.append("~ Rounding covers the change of the outcome's slope.")
        return "\n".join(lines)

    def _worst_leaves(self) -> list[str]:
        """The leaves that agree least and take part in the movement."""
        paths = list(self.entries[0].leaves)
        if len(paths) < 2:
            return []
        mean = lambda of: np.nanmean(
            [[of(each)[path] for path in paths] for each in self.entries], 0
        )
        share = mean(lambda each: each.shares)
        moving = [i for i in range(len(paths)) if share[i] > 0.01]
        value = mean(lambda each: {p: x if x == x else 0.0 for p, x in each.leaves.items()})
        least = sorted(moving, key=lambda i: value[i])[:3]
        listed = ", ".join(f"{paths[i]} {value[i]:.2f} ({share[i]:.0%})" for i in least)
        return [f"Leaves that agree least (share of the movement): {listed}."]


def _row(cells: Sequence[str]) -> str:
    return (f"{cells[0]:<12}" + "".join(f"{cell:>12}" for cell in cells[1:])).rstrip()


def _listed(places: tuple[Place, ...], attribute: str) -> str:
    more = f" and {len(places) - 4} more ({attribute})" if len(places) > 4 else ""
    return ", ".join(map(str, places[:4])) + more


def _wrapped(text: str) -> str:
    return textwrap.fill(text, _WIDTH)
