"""How well an approximate gradient agrees with the exact one."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import numpy as np

from metagrad.frontend.dtypes import is_float


@dataclasses.dataclass(frozen=True)
class Agreement:
    """Two gradients, compared over all entries of all floating-point leaves, in float64.

    Attributes:
      cosine: of the angle between them, from -1 to 1; NaN if one of them is zero.
      relative_error: the norm of approximate - exact, over that of exact.
      same_signs: the share of the entries whose signs are the same, zero being a sign of its own.
        It is what sign descent and counts depend on.
      norm_ratio: the norm of approximate over that of exact.
    """

    cosine: float
    relative_error: float
    same_signs: float
    norm_ratio: float

    @property
    def degrees(self) -> float:
        """The angle between the two, from 0 to 180; NaN if one of them is zero."""
        return math.degrees(math.acos(min(1.0, max(-1.0, self.cosine))))

    def __str__(self) -> str:
        return (
            f"cosine {self.cosine:.4f}, relative error {self.relative_error:.2e}, "
            f"same signs {self.same_signs:.1%}"
        )


def agreement(approximate: Any, exact: Any) -> Agreement:
    """Compares two gradients of the same structure.

    Raises:
      ValueError: their structures or shapes differ, or there is no floating-point entry.
    """
    ours, exact_entries = _entries(approximate), _entries(exact)
    structures: list[Any] = [jax.tree.structure(tree) for tree in (approximate, exact)]
    if structures[0] != structures[1] or ours.shape != exact_entries.shape:
        raise ValueError("the two gradients differ in structure or shape")
    if not ours.size:
        raise ValueError("the gradients have no floating-point entry")
    return _of_entries(ours, exact_entries)


def agreement_by_leaf(approximate: Any, exact: Any, name: str) -> dict[str, Agreement]:
    """The agreement in each floating-point leaf that has an entry, by its path.

    Args:
      name: of the tree, which paths begin with.
    """
    with_paths, _ = jax.tree_util.tree_flatten_with_path(exact)
    return {
        name + jax.tree_util.keystr(path): _of_entries(_entries(ours), _entries(leaf))
        for (path, leaf), ours in zip(with_paths, jax.tree.leaves(approximate), strict=True)
        if is_float(leaf) and np.size(leaf)
    }


def agreement_by_part(approximate: Any, exact: Any, name: str) -> dict[str, Agreement]:
    """The agreement in each child of the tree's root that has several float leaves, by its path.

    The angle over a state of parameters and moments is that of whichever has the larger gradient,
    so the parameters have one of their own.

    Args:
      name: of the tree, which paths begin with.
    """
    parts, _ = jax.tree_util.tree_flatten_with_path(exact, is_leaf=lambda x: x is not exact)
    ours = jax.tree.leaves(approximate, is_leaf=lambda x: x is not approximate)
    several = lambda part: sum(is_float(leaf) for leaf in jax.tree.leaves(part)) > 1
    return {
        name + jax.tree_util.keystr(path): _of_entries(_entries(mine), _entries(part))
        for (path, part), mine in zip(parts, ours, strict=True)
        if several(part) and part is not exact
    }


def _of_entries(ours: np.ndarray, exact_entries: np.ndarray) -> Agreement:
    lengths = float(np.linalg.norm(ours)), float(np.linalg.norm(exact_entries))
    with np.errstate(divide="ignore", invalid="ignore"):
        return Agreement(
            float(ours @ exact_entries / np.float64(lengths[0]) / lengths[1]),
            float(np.linalg.norm(ours - exact_entries) / np.float64(lengths[1])),
            float(np.mean(np.sign(ours) == np.sign(exact_entries))),
            float(lengths[0] / np.float64(lengths[1])),
        )


def _entries(tree: Any) -> np.ndarray:
    leaves = [np.ravel(leaf).astype(np.float64) for leaf in jax.tree.leaves(tree) if is_float(leaf)]
    return np.concatenate(leaves) if leaves else np.zeros(0)
