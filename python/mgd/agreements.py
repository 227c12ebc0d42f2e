"""How well an approximate gradient agrees with the exact one."""

from __future__ import annotations

import dataclasses
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
    """

    cosine: float
    relative_error: float
    same_signs: float

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
    lengths = float(np.linalg.norm(ours)), float(np.linalg.norm(exact_entries))
    with np.errstate(divide="ignore", invalid="ignore"):
        return Agreement(
            float(ours @ exact_entries / np.float64(lengths[0]) / lengths[1]),
            float(np.linalg.norm(ours - exact_entries) / np.float64(lengths[1])),
            float(np.mean(np.sign(ours) == np.sign(exact_entries))),
        )


def _entries(tree: Any) -> np.ndarray:
    leaves = [np.ravel(leaf).astype(np.float64) for leaf in jax.tree.leaves(tree) if is_float(leaf)]
    return np.concatenate(leaves) if leaves else np.zeros(0)
