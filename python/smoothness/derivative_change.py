"""Definition 1: how much the derivative of a number changes along a step."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metagrad.frontend.dtypes import is_float
from metagrad.smoothness import points


@dataclasses.dataclass(frozen=True)
class FunctionSmoothness:
    """How much a function's derivative along a direction changes over a step. Small is smooth.

    Attributes:
      direction: the direction's name.
      h: the step size.
      derivatives: the derivative along v at z and at z + h v.
      value: how much they differ, over h; in units of the function by units of h squared.
      resolution: what rounding alone makes of `value`, about; a smaller value says nothing.
    """

    direction: str
    h: float
    derivatives: tuple[float, float]
    value: float
    resolution: float

    @property
    def relative_change(self) -> float:
        """The change of the derivative, over the larger derivative: 0 for a linear function.

        It has no units. Above 1 the derivative has changed its sign.
        """
        largest = max(map(abs, self.derivatives))
        return abs(self.derivatives[1] - self.derivatives[0]) / largest if largest else 0.0

    def __str__(self) -> str:
        covered = ", which rounding decides" if self.value <= self.resolution else ""
        before, after = self.derivatives
        return (
            f"along {self.direction}, h = {self.h:g}: the derivative goes from {before:.6g} to "
            f"{after:.6g}; change / h = {self.value:.4g} (resolution {self.resolution:.1g})"
            f"{covered}"
        )


def of_function(
    f: Callable[[Any], Any],
    z: Any,
    v: Any,
    h: float | Sequence[float],
    *,
    seed: int = 0,
    jit: bool = True,
) -> tuple[FunctionSmoothness, ...]:
    """Definition 1 by differences: |f(z + 2hv) - 2 f(z + hv) + f(z)| / h^2.

    The derivative at z is taken as (f(z + hv) - f(z)) / h, that at z + hv accordingly. It costs one
    evaluation, and two for each direction and step size. Where there is a metagradient,
    `of_gradient` is exact. Source: Definition 1 of Engstrom et al. 2025 (arXiv 2503.13751).

    Args:
      f: from a pytree like z to a real scalar. It is jitted once.
      z: the configuration, a pytree of arrays and numbers; only its floats move.
      v: a direction like z, a list of them, or how many random ones (`random_directions`).
      h: a step size, or several.
      seed: of random directions.
      jit: False for a function that cannot be jitted.

    Returns:
      One entry for each direction and step size, directions first.

    Raises:
      ValueError: v or h does not fit, or f does not return a scalar.
      FloatingPointError: f is not finite at one of the points.
    """
    z = points.as_arrays(z)
    value_at = jax.jit(f) if jit else f
    at_z, epsilon = _scalar(value_at(z), "z")
    entries = []
    for direction in points.named_directions(z, v, seed):
        for step in points.checked_steps(h):
            values = [at_z] + [
                _scalar(value_at(points.moved(z, direction.tree, k * step)), f"z + {k} h v")[0]
                for k in (1, 2)
            ]
            entries.append(second_difference(direction.name, step, values, epsilon))
    return tuple(entries)


def second_difference(
    name: str, h: float, values: Sequence[float], epsilon: float, noise: float = 0.0
) -> FunctionSmoothness:
    """Definition 1 from the values at z, z + hv and z + 2hv.

    Args:
      epsilon: the machine epsilon of the values' dtype.
      noise: what rounding changes in a value, as far as that was measured.
    """
    first, second, third = values
    error = max(noise, epsilon * max(map(abs, values)))
    return FunctionSmoothness(
        name,
        h,
        ((second - first) / h, (third - second) / h),
        abs(third - 2 * second + first) / h**2,
        # The coefficients are 1, -2 and 1.
        math.sqrt(6) * error / h**2,
    )


def of_gradient(
    gradient: Callable[[Any], Any], z: Any, v: Any, h: float | Sequence[float], *, seed: int = 0
) -> tuple[FunctionSmoothness, ...]:
    """Definition 1 with exact derivatives: |<g(z + hv), v> - <g(z), v>| / h.

    It costs one gradient, and one for each direction and step size. Of a metagradient `mg`:
    `of_gradient(lambda z: mg(state0, z, batches, *outer_args).grad, z, v, h)`.

    Args:
      gradient: from a pytree like z to the gradient, a pytree like z. It is called as it is.
      z, v, h, seed: as in `of_function`.

    Returns:
      One entry for each direction and step size, directions first.

    Raises:
      ValueError: v or h does not fit, or the gradient is not a pytree like z.
      FloatingPointError: a derivative is not finite.

    >>> import jax, metagrad
    >>> cube = jax.grad(lambda z: z**3)
    >>> print(metagrad.smoothness.of_gradient(cube, 1.0, 1.0, 0.5)[0])
    along v, h = 0.5: the derivative goes from 3 to 6.75; change / h = 7.5 (resolution 2e-06)
    """
    z = points.as_arrays(z)
    at_z = gradient(z)
    entries = []
    for direction in points.named_directions(z, v, seed):
        before, size = _along(_like(z, at_z), direction.tree, "z")
        for step in points.checked_steps(h):
            there = _like(z, gradient(points.moved(z, direction.tree, step)))
            after, other_size = _along(there, direction.tree, "z + h v")
            error = _epsilon(at_z) * math.hypot(size, other_size)
            change = abs(after - before) / step
            entries.append(
                FunctionSmoothness(direction.name, step, (before, after), change, error / step)
            )
    return tuple(entries)


def _like(z: Any, gradient: Any) -> Any:
    """The gradient, which has z's structure, and the shapes of its floats.

    Raises:
      ValueError: it has not.
    """
    structures: list[Any] = [jax.tree.structure(tree) for tree in (gradient, z)]
    if structures[0] != structures[1]:
        raise ValueError(f"gradient returned {structures[0]}, and z is {structures[1]}")
    for (path, leaf), g in zip(jax.tree_util.tree_leaves_with_path(z), jax.tree.leaves(gradient)):
        if is_float(leaf) and np.shape(g) != np.shape(leaf):
            where = jax.tree_util.keystr(path)
            raise ValueError(
                f"gradient{where} has the shape {np.shape(g)}, and z{where} has {np.shape(leaf)}"
            )
    return gradient


def _along(gradient: Any, v: Any, where: str) -> tuple[float, float]:
    """(<g, v>, the root of the sum of squared products, which rounding errors are relative to)."""
    pairs = zip(jax.tree.leaves(gradient), jax.tree.leaves(v))
    products = [
        (np.asarray(g, float) * np.asarray(entry, float)).ravel()
        for g, entry in pairs
        if is_float(g)
    ]
    everything = np.concatenate(products)
    if not np.isfinite(everything).all():
        raise FloatingPointError(f"the gradient at {where} is not finite")
    return float(everything.sum()), float(np.sqrt(np.sum(everything**2)))


def _epsilon(tree: Any) -> float:
    return max(float(jnp.finfo(g.dtype).eps) for g in jax.tree.leaves(tree) if is_float(g))


def _scalar(value: Any, where: str) -> tuple[float, float]:
    """The value, and the machine epsilon of its dtype."""
    if np.shape(value) != ():
        raise ValueError(f"f must return a scalar, and at {where} it has shape {np.shape(value)}")
    value = jnp.asarray(value)
    epsilon = float(jnp.finfo(value.dtype).eps) if is_float(value) else 0.0
    if not np.isfinite(float(value)):
        raise FloatingPointError(f"f is {float(value)} at {where}")
    return float(value), epsilon
