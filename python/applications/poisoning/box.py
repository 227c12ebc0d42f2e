"""What an attacker may change: some rows of one leaf of the data, within a box."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metagrad.frontend.dtypes import is_float
from metagrad.frontend.pytrees import is_array_leaf


@dataclasses.dataclass(frozen=True, eq=False)
class Box:
    """Rows of a leaf of the data, and bounds for their entries. `Box.of` makes it.

    Attributes:
      position: which leaf of the data.
      path: its path, as the user would write it.
      examples: the rows that may change, int64 [k], ascending.
      low, high: the bounds of their entries, [k, ...].
    """

    position: int
    path: str
    examples: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @staticmethod
    def of(
        data: Any,
        examples: Sequence[int] | np.ndarray,
        leaf: str | None = None,
        limits: tuple[float, float] | None = (0.0, 1.0),
        radius: float | None = None,
    ) -> Box:
        """The box around clean data.

        Args:
          data: the clean data, a pytree of arrays.
          examples: rows of the leaf.
          leaf: the leaf's path, "['image']"; needed where there are several float leaves.
          limits: the lowest and the highest value. None: any.
          radius: the largest change of an entry. None: any.

        Raises:
          ValueError: an argument does not fit the data.
        """
        position, path, array = _leaf_of(data, leaf)
        rows = _rows(examples, array, path)
        lowest, highest = limits or (-math.inf, math.inf)
        reach = math.inf if radius is None else radius
        if not (lowest < highest and reach > 0):
            raise ValueError(
                f"limits must be (lowest, highest), and radius positive: {limits}, {radius}"
            )
        clean = np.asarray(array, np.float64)[rows]
        if (clean < lowest).any() or (clean > highest).any():
            raise ValueError(
                f"data{path} has entries from {clean.min():.4g} to {clean.max():.4g} in these "
                f"examples, outside of limits={limits}"
            )
        low = np.maximum(clean - reach, lowest).astype(array.dtype)
        high = np.minimum(clean + reach, highest).astype(array.dtype)
        return Box(position, path, rows, low, high)

    def replace(self, data: Any, change: Any) -> Any:
        """The data with `change(rows)` in place of the rows that may change."""
        leaves, structure = jax.tree.flatten(data)
        array = jnp.asarray(leaves[self.position])
        leaves[self.position] = array.at[self.examples].set(change(array[self.examples]))
        return jax.tree.unflatten(structure, leaves)

    def project(self, data: Any) -> Any:
        """The data with the rows moved into the box."""
        return self.replace(data, lambda rows: jnp.clip(rows, self.low, self.high))

    def mask(self, gradients: Any) -> Any:
        """Gradients with zeros for all that may not change."""
        leaves, structure = jax.tree.flatten(gradients)
        kept = [
            jnp.zeros_like(leaf).at[self.examples].set(leaf[self.examples])
            if i == self.position
            else jnp.zeros_like(leaf)
            for i, leaf in enumerate(leaves)
        ]
        return jax.tree.unflatten(structure, kept)


def _leaf_of(data: Any, leaf: str | None) -> tuple[int, str, Any]:
    """(position among the leaves, path, array) of the leaf that is meant."""
    everything = [
        (i, jax.tree_util.keystr(path), array)
        for i, (path, array) in enumerate(jax.tree_util.tree_leaves_with_path(data))
        if is_array_leaf(array) and is_float(jax.typeof(array))
    ]
    chosen = [each for each in everything if leaf is None or each[1] == leaf]
    if len(chosen) != 1:
        paths = ", ".join(repr(path) for _, path, _ in everything) or "none"
        raise ValueError(
            f"leaf={leaf!r} has to name one float leaf of the data by its path. There are: {paths}"
        )
    return chosen[0]


def _rows(examples: Sequence[int] | np.ndarray, array: Any, path: str) -> np.ndarray:
    rows = np.asarray(examples)
    count = np.shape(array)[0] if np.ndim(array) else 0
    if rows.ndim != 1 or not len(rows) or not np.issubdtype(rows.dtype, np.integer):
        raise ValueError("examples must be a row of integers, at least one")
    if rows.min() < 0 or rows.max() >= count or len(set(rows.tolist())) < len(rows):
        raise ValueError(f"examples must be different rows of data{path}, from 0 to {count - 1}")
    return np.sort(rows)
