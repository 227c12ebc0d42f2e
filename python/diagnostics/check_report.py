"""The report of `metagrad.check`: the numbers, and what they mean in words."""

from __future__ import annotations

import dataclasses
import math
import textwrap

from metagrad.diagnostics.finite_differences import (
    AGREES,
    CANNOT_TELL,
    DISAGREES,
    NOT_SMOOTH,
    DirectionCheck,
)
from metagrad.diagnostics.large_steps import near_at_large_steps, range_of
from metagrad.diagnostics.paths import enumerate_paths
from metagrad.frontend.jaxprs.cuts import Place

_WIDTH = 100


@dataclasses.dataclass(frozen=True, repr=False)
class CheckReport:
    """A metagradient against finite differences of its run. `str()` is a short text with a table.

    Attributes:
      verdict: "agrees"; "disagrees": the differences settle on another number; "not smooth": they
        settle on none, or only for tiny steps, so that they say nothing against the metagradient;
        "cannot tell": rounding covers the derivative.
      directions: the numbers, one entry for each direction. What they are derivatives along is
        said at `DirectionCheck.metagradient`.
      of: what was moved: the names in `wrt` of which a leaf moved, or a leaf, or an entry of it.
      moved: the paths of the leaves that moved. Nothing is said of another leaf.
      value: the outer value.
      dtype: the floats that the run and the metagradient were computed in.
      precision: why it is not float64, in words; empty if it is.
      fixed: the paths of the leaves that `wrt` names and that did not move: they hold zeros, and
        the run is not finite next to them.
      cuts: the stop_gradients and custom rules on the way to the outer value.
      kinks: the operations with a kink or a jump on the way.
      narrow: the conversions to a narrower float on the way, and products of operands in one.
      without_cuts: for each direction, JAX's derivative in forward mode with all `cuts` taken out;
        NaN where JAX has none. Empty where the metagradient agrees and nothing is cut.
    """

    verdict: str
    directions: tuple[DirectionCheck, ...]
    of: str
    moved: tuple[str, ...]
    value: float
    dtype: str
    precision: str
    fixed: tuple[str, ...]
    cuts: tuple[Place, ...]
    kinks: tuple[Place, ...]
    narrow: tuple[Place, ...]
    without_cuts: tuple[float, ...]

    @property
    def relative_error(self) -> float:
        """The largest of the directions; NaN if the differences settle in none."""
        errors = [d.relative_error for d in self.directions if not math.isnan(d.estimate)]
        return max(errors, default=math.nan)

    @property
    def step_sizes(self) -> tuple[float, float] | None:
        """The smallest and the largest step size at which the differences of all directions settle.

        None if there is none.
        """
        ranges = [d.settled for d in self.directions if d.settled is not None]
        if not ranges:
            return None
        low, high = max(low for low, _ in ranges), min(high for _, high in ranges)
        return (low, high) if low <= high else None

    def __str__(self) -> str:
        words = {
            AGREES: self._agrees,
            DISAGREES: self._disagrees,
            NOT_SMOOTH: self._not_smooth,
            CANNOT_TELL: self._cannot_tell,
        }[self.verdict]()
        if any(math.isnan(difference) for d in self.directions for difference in d.differences):
            words.append(
                "The run is not finite at some of these points (nan in the table): a leaf may have "
                "left its domain, as an optimiser's second moments do below zero. Say by leaf= "
                "what is to be moved."
            )
        if self.precision:
            words.append(f"All this is in {self.dtype}: {self.precision}.")
        words.append(self._about_the_numbers())
        paragraphs = [_wrapped(f"metagrad.check: {self._verdict()}. {words[0]}")]
        paragraphs += [text if text.startswith("  ") else _wrapped(text) for text in words[1:]]
        return "\n".join([*paragraphs, "", self._table()])

    __repr__ = __str__

    def _verdict(self) -> str:
        """The verdict, and what it is not about."""
        if not self.fixed:
            return self.verdict
        it = "it holds" if len(self.fixed) == 1 else "they hold"
        them = "it" if len(self.fixed) == 1 else "them"
        return (
            f"{self.verdict}, for {self.of} without {enumerate_paths(list(self.fixed))} ({it} "
            f"zeros and did not move: the run is not finite next to {them})"
        )

    def _about_the_numbers(self) -> str:
        if self.directions[0].name == "the entry":
            return f"The numbers are derivatives by {self.of}, as the metagradient's entry is."
        if len(self.moved) == 1:
            return (
                "The numbers are derivatives along directions in the leaf: the sum of the gradient "
                "times a direction whose entries have the root mean square 1."
            )
        return (
            "The numbers are derivatives along directions: the sum of the gradient times a "
            "direction whose entries are about 1, scaled by each leaf's root mean square."
        )

    def _agrees(self) -> list[str]:
        settled = [d for d in self.directions if d.settled is not None]
        if not settled:
            return [
                f"The derivative with respect to {self.of} is zero, and the differences are zero "
                "to rounding."
            ]
        where = f" for step sizes from {range_of(*self.step_sizes)}" if self.step_sizes else ""
        text = (
            f"The metagradient with respect to {self.of} is within {self.relative_error:.1e} "
            f"(relative) of central differences of the run,{where}. That is in {self.dtype}, and "
            f"the differences are good to {max(d.resolution for d in settled):.1e}."
        )
        words = [text]
        reach, largest = self._reach(), max(self.directions[0].step_sizes)
        if reach < largest:
            words.append(
                f"For step sizes above {reach:.0e} the change of the value is more than 10% off "
                "what the metagradient predicts, in some direction."
            )
            words += self._about_kinks() + self._about_narrow()
        if any(d.kink for d in settled):
            words.append(
                "The run has a kink at this very point: its slopes to the two sides differ. "
                "The metagradient is their mean, as the central difference is."
            )
        return words

    def _disagrees(self) -> list[str]:
        worst = max(
            (d for d in self.directions if d.verdict == DISAGREES), key=lambda d: d.relative_error
        )
        text = (
            f"The metagradient with respect to {self.of} is not what central differences of the "
            f"run settle on: along {worst.name!r} it is {worst.metagradient:.6g}, and they settle "
            f"on {worst.estimate:.6g} (+- {worst.error:.1e})."
        )
        if not self.cuts:
            return [
                text,
                "No stop_gradient and no custom rule is on the way, so this is no choice of the "
                "program's. Compare with jax.grad of the lax.scan of the run, and report it to "
                "metagrad if that differs from the metagradient.",
            ]
        return [text, *self._about_cuts()]

    def _about_cuts(self) -> list[str]:
        words = [
            "On the way to the value the program cuts the derivative or replaces it:",
            *(f"    {place}" for place in self.cuts[:8]),
        ]
        if len(self.cuts) > 8:
            words.append(f"    and {len(self.cuts) - 8} more places: see .cuts")
        words.append(
            "The metagradient is JAX's derivative, which honours them; a difference does not."
        )
        known = [(d, w) for d, w in zip(self.directions, self.without_cuts) if not math.isnan(w)]
        if known and all(_is_near(d, w) for d, w in known):
            words.append("With them taken out, JAX's derivative is what the differences show.")
        return words

    def _not_smooth(self) -> list[str]:
        rough = [d for d in self.directions if d.verdict == NOT_SMOOTH]
        confirmed = [d for d in rough if d.predicts_to > 0 and not math.isnan(d.estimate)]
        if any(d.kink for d in rough):
            what = (
                "The run has a kink at this very point: its slopes to the two sides differ, and "
                "the metagradient is one of the values that a derivative may be given there."
            )
        elif confirmed:
            reach = min(d.predicts_to for d in confirmed)
            what = (
                f"The metagradient with respect to {self.of} is the derivative at this very point: "
                f"along {len(confirmed)} of {len(self.directions)} directions it is what the "
                f"differences settle on, for steps up to {reach:.0e}. For larger steps they "
                "scatter."
            )
        elif self.narrow:
            what = (
                "The run rounds to narrower floats on the way, which makes it a staircase: small "
                "steps show the stairs, and not the slope over many of them. So the differences "
                "cannot show the metagradient to be right, nor to be wrong."
            )
        else:
            what = (
                "The central differences of the run settle on no number before rounding takes "
                "over. They cannot show the metagradient to be right, nor to be wrong: no step "
                "size is the right one."
            )
        words = [what]
        words += [*self._about_narrow(), *self._about_kinks()] or [
            "No operation with a kink is on the way: the run itself makes much of small changes, "
            "as one that diverges does."
        ]
        if not self.narrow or self.kinks:
            words.append(self._FOR_DESCENT)
        differ = any(not _is_near(d, w, d.metagradient) for d, w in self._known_without_cuts())
        return words + (self._about_cuts() if self.cuts and differ else [])

    _FOR_DESCENT = (
        "For descent: the metagradient is the slope of the smooth piece of the run that this "
        "point lies on, and a step that leaves the piece may go up. Take small steps and judge "
        "each by the value that it leads to, average metagradients over batches or nearby "
        "points, or make the run smoother: softplus or gelu for relu, larger batches, a lower "
        "or decaying learning rate (Engstrom et al. 2025, arXiv 2503.13751, on metasmoothness)."
    )

    def _about_narrow(self) -> list[str]:
        if not self.narrow:
            return []
        wide = "float64" if self.dtype == "float64" else "float32"
        return [
            f"Narrower floats on the way: {_listed(self.narrow, '.narrow')}.",
            *self._about_large_steps(),
            "JAX's derivative, and so the metagradient, takes each rounding for the identity. To "
            f"check it, make the products in {wide} (leave the conversions out, or make them to "
            f"{wide}), and check that run.",
        ]

    def _about_large_steps(self) -> list[str]:
        """Which derivative the differences show over many stairs of a staircase, if any."""
        if near := near_at_large_steps(self.directions, [d.metagradient for d in self.directions]):
            return [f"Over large steps the differences show the metagradient: {near}."]
        if self.cuts and (near := near_at_large_steps(self.directions, self.without_cuts)):
            return [
                "Over large steps the differences do not show the metagradient, but JAX's "
                f"derivative with the cuts taken out: {near}."
            ]
        return []

    def _about_kinks(self) -> list[str]:
        if not self.kinks:
            return []
        listed = _listed(self.kinks, ".kinks")
        return [f"Operations with a kink or a jump on the way: {listed}."]

    def _cannot_tell(self) -> list[str]:
        nowhere = [d.name for d in self.directions if d.is_nowhere_finite]
        if len(nowhere) == len(self.directions):
            return ["The run is finite at no step away from these arguments."]
        if nowhere:
            return [f"The run is finite at no step along {enumerate_paths(nowhere)}."]
        return [
            f"The derivative with respect to {self.of} is too small beside the value "
            f"{self.value:.6g}: in {self.dtype} rounding covers the differences. Give larger "
            "step_sizes, a leaf= that moves the value more, or a step that runs in float64.",
            *(self._about_cuts() if self.cuts else []),
        ]

    def _known_without_cuts(self) -> list[tuple[DirectionCheck, float]]:
        return [(d, w) for d, w in zip(self.directions, self.without_cuts) if not math.isnan(w)]

    def _reach(self) -> float:
        return min(d.predicts_to for d in self.directions if not math.isnan(d.estimate))

    def _table(self) -> str:
        """One column for each direction; a star marks the differences that settle.

        Of many step sizes every second is shown.
        """
        sizes = self.directions[0].step_sizes
        shown = range(0, len(sizes), 2 if len(sizes) > 10 else 1)
        width = 15
        row = lambda label, cells: f"{label:>14}" + "".join(f"{cell:>{width}}" for cell in cells)
        lines = [
            row("direction", [d.name for d in self.directions]),
            row("metagradient", [f"{d.metagradient:.6g} " for d in self.directions]),
        ]
        if self.cuts and self.without_cuts:
            lines.append(row("without cuts", [f"{w:.6g} " for w in self.without_cuts]))
        lines.append(row("step size", ["difference "] * len(self.directions)))
        for i in shown:
            cells = [f"{d.differences[i]:.6g}{_star(d, sizes[i])}" for d in self.directions]
            lines.append(row(f"{sizes[i]:.1e}", cells))
        return "\n".join(line.rstrip() for line in lines)


def _star(direction: DirectionCheck, h: float) -> str:
    low, high = direction.settled or (math.inf, -math.inf)
    return "*" if low <= h <= high else " "


def _listed(places: tuple[Place, ...], attribute: str) -> str:
    more = f" and {len(places) - 4} more ({attribute})" if len(places) > 4 else ""
    return ", ".join(map(str, places[:4])) + more


def _is_near(direction: DirectionCheck, number: float, other: float | None = None) -> bool:
    """Whether a number is what the differences settle on, or the `other`."""
    other = direction.estimate if other is None else other
    slack = 0.01 * max(abs(number), abs(other)) + (
        0 if math.isnan(direction.error) else direction.error
    )
    return abs(number - other) <= slack


def _wrapped(text: str) -> str:
    return textwrap.fill(text, _WIDTH)
