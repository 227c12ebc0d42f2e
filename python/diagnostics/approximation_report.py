"""The report of `metagrad.check` on an approximate metagradient: its angle to the exact one."""

from __future__ import annotations

import dataclasses

from metagrad.diagnostics.agreements import Agreement

_ROWS = 20
_ALL_OF = "all of {}"


@dataclasses.dataclass(frozen=True, repr=False)
class ApproximationReport:
    """An approximate metagradient beside the exact one. `str()` is a short text with a table.

    Attributes:
      approximations: what is left out, in words, one entry for each approximation.
      overall: the agreement over all entries of all floating-point leaves. `overall.cosine`,
        `overall.degrees` and `overall.norm_ratio` are the angle and the ratio of the norms.
      parts: the agreement in each part of what the gradient is with respect to that has several
        leaves, by its path: the parameters of a state, apart from an optimiser's moments.
      leaves: the agreement in each leaf, by its path.
      dtype: the floats of the outer value.
    """

    approximations: tuple[str, ...]
    overall: Agreement
    parts: dict[str, Agreement]
    leaves: dict[str, Agreement]
    dtype: str

    verdict = "approximate"

    def __str__(self) -> str:
        overall = self.overall
        lines = [
            f"metagrad.check: {self.verdict}. {'; '.join(self.approximations)}.",
            f"The gradient is at {overall.degrees:.2f} degrees to the exact one (cosine "
            f"{overall.cosine:.6f}), and {overall.norm_ratio:.4g} times as long; {self.dtype}.",
            "",
            f"{'':{self._width}}  degrees    cosine  norm ratio  same signs",
            self._row("all", overall),
            *(self._row(_ALL_OF.format(path), part) for path, part in self._parts[:_ROWS]),
        ]
        # The worst leaves first: NaN, where one of the two is zero, before all.
        worst = sorted(self.leaves.items(), key=lambda item: -_badness(item[1]))
        lines += [self._row(path, each) for path, each in worst[:_ROWS]]
        if len(worst) > _ROWS:
            lines.append(f"and {len(worst) - _ROWS} more leaves, which agree better (.leaves)")
        if len(self._parts) > _ROWS:
            lines.append(f"and {len(self._parts) - _ROWS} more parts (.parts)")
        return "\n".join(lines)

    __repr__ = __str__

    @property
    def _parts(self) -> list[tuple[str, Agreement]]:
        """The parts, those that agree least first."""
        return sorted(self.parts.items(), key=lambda item: -_badness(item[1]))

    @property
    def _width(self) -> int:
        return max(map(len, ("all", *map(_ALL_OF.format, self.parts), *self.leaves)))

    def _row(self, name: str, each: Agreement) -> str:
        return (
            f"{name:{self._width}}  {each.degrees:7.2f}  {each.cosine:8.4f}  "
            f"{each.norm_ratio:10.4g}  {each.same_signs:10.1%}"
        )


def _badness(each: Agreement) -> float:
    return 2.0 if each.cosine != each.cosine else 1.0 - each.cosine
