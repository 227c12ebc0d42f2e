"""A picture of an outcome over a plane of configurations."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from metagrad.smoothness import points


@dataclasses.dataclass(frozen=True)
class Landscape:
    """The outcome at z + a u + b v for a grid of a and b.

    Attributes:
      a, b: the coordinates along u and along v, float64 [n] and [m].
      values: float64 [n, m]; entry [i, j] is the outcome at z + a[i] u + b[j] v.
    """

    a: np.ndarray
    b: np.ndarray
    values: np.ndarray

    def __repr__(self) -> str:
        rows, columns = self.values.shape
        return (
            f"<Landscape of {rows} x {columns} points, outcome {self.values.min():.6g} to "
            f"{self.values.max():.6g}, roughness {self.roughness:.3f}>"
        )

    @property
    def roughness(self) -> float:
        """How much of the variation between neighbours is not linear, in [0, 1].

        The sum of absolute second differences along both axes, over twice the sum of absolute first
        differences: 0 for a plane, near 1 where the outcome goes up and down at every point. NaN
        for an axis of fewer than three points.
        """
        firsts = [np.abs(np.diff(self.values, axis=axis)) for axis in (0, 1)]
        seconds = [np.abs(np.diff(self.values, 2, axis=axis)) for axis in (0, 1)]
        if not all(each.size for each in seconds):
            return float("nan")
        # A second difference is the difference of two neighbouring first ones.
        most = sum(
            np.sum(
                np.take(f, range(1, f.shape[axis]), axis)
                + np.take(f, range(f.shape[axis] - 1), axis)
            )
            for axis, f in enumerate(firsts)
        )
        return float(sum(each.sum() for each in seconds) / most) if most else 0.0

    def draw(self, ax: Any = None, labels: Sequence[str] = ("a", "b", "outcome")) -> Any:
        """Draws filled contours, and returns the matplotlib figure.

        Args:
          ax: the axes to draw on; by default those of a new figure.
          labels: of the two axes and of the colour bar.

        Raises:
          ImportError: matplotlib is not installed.
        """
        figure, ax = _axes(ax)
        colours = ax.contourf(self.a, self.b, self.values.T, levels=24, cmap="viridis")
        ax.plot(0, 0, "o", color="white", markeredgecolor="black", markersize=5)
        ax.set(xlabel=labels[0], ylabel=labels[1])
        figure.colorbar(colours, ax=ax, label=labels[2])
        return figure

    def save(self, path: str | os.PathLike) -> None:
        """Writes the picture to a file, of the format that the path's ending names."""
        self.draw().savefig(path)


def landscape(
    outcome: Callable[[Any], Any],
    z: Any,
    u: Any,
    v: Any,
    *,
    reach: float | tuple[float, float] = 1.0,
    points_per_axis: int | tuple[int, int] = 15,
    jit: bool = True,
) -> Landscape:
    """The outcome of training over the plane z + a u + b v (Figure 5 of arXiv 2503.13751).

    One program, called once for each point of the grid.

    Args:
      outcome: from a pytree like z to a real scalar, such as the validation loss after training:
        `lambda z: loss(train(z))`. It is jitted once.
      z: the point in the middle, a pytree of arrays and numbers.
      u, v: two directions like z.
      reach: a goes from -reach to reach, and b too; or a pair of them.
      points_per_axis: how many points each axis has, or a pair; an odd number has z itself.
      jit: False for a function that cannot be jitted.

    Returns:
      A `Landscape`: the numbers, which draw themselves.

    Raises:
      ValueError: a direction does not fit z, reach or points_per_axis is not positive, or the
        outcome is not a scalar.
    """
    z = points.as_arrays(z)
    u, v = points.checked(z, u, "u"), points.checked(z, v, "v")
    reaches, counts = _pair(reach), _pair(points_per_axis)
    if min(reaches) <= 0 or min(counts) < 2:
        raise ValueError("reach must be positive, and points_per_axis at least 2")
    a, b = (np.linspace(-r, r, int(n)) for r, n in zip(reaches, counts))
    value_at = jax.jit(outcome) if jit else outcome
    at = lambda i, j: value_at(points.moved(points.moved(z, u, i), v, j))
    values = [[_number(at(i, j)) for j in b] for i in a]
    return Landscape(a, b, np.array(values))


def _number(outcome: Any) -> float:
    """Raises ValueError where an outcome is no number."""
    if not jax.tree_util.all_leaves([outcome]) or np.shape(outcome) != ():
        raise ValueError(
            "outcome must return a real scalar, such as a loss of what training ends up with, and "
            f"returned {jax.tree.map(np.shape, outcome)} (shapes)"
        )
    return float(outcome)


def _pair(value: Any) -> tuple[Any, Any]:
    return (value[0], value[1]) if isinstance(value, tuple) else (value, value)


def _axes(ax: Any) -> tuple[Any, Any]:
    if ax is not None:
        return ax.figure, ax
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('drawing needs matplotlib: pip install "metagrad[examples]"') from error
    figure = Figure(figsize=(5, 4), dpi=120, layout="constrained")
    return figure, figure.subplots()
