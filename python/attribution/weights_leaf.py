"""Where the weights of the training examples stand in the metaparameters."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np

from metagrad.api.metagradient import Metagradient
from metagrad.frontend.pytrees import Leaf, Tree, tree_of


@dataclasses.dataclass(frozen=True)
class WeightsLeaf:
    """The leaf of meta that holds the weights.

    Attributes:
      path: as users write it: "meta['weight']".
      position: among the array leaves of meta.
      tree: of meta.
    """

    path: str
    position: int
    tree: Tree

    def of(self, meta: Any) -> Any:
        """The leaf in a pytree like meta: the weights, or their gradient."""
        return self.tree.arrays(meta)[self.position]


def check_metagradient(mg: Any, function: str) -> None:
    """Checks that `mg` is a metagradient with respect to meta.

    Raises:
      TypeError: it is not a metagradient.
      ValueError: it is not with respect to meta.
    """
    if not isinstance(mg, Metagradient):
        raise TypeError(
            f"{function} takes a metagradient, `train_step.metagradient(outer)`, and mg is {mg!r}"
        )
    if "meta" not in mg.request.wrt:
        raise ValueError(
            f"{function} differentiates with respect to weights in meta, and mg was made with "
            f"wrt={mg.request.wrt!r}. Make it with train_step.metagradient(outer)."
        )


def find_weights(meta: Any, weights: str | None) -> WeightsLeaf:
    """The leaf of meta that `weights` names.

    Args:
      meta: the metaparameters.
      weights: a leaf's last name, "weight", or its path, "meta['loss']['weight']". None: the only
        float leaf of meta that is not a scalar.

    Raises:
      TypeError: `weights` is not text.
      ValueError: it names no leaf or several, or one that cannot be weights.
    """
    if weights is not None and not isinstance(weights, str):
        raise TypeError(f'weights={weights!r} is not the name of a leaf of meta, such as "weight"')
    tree = tree_of("meta", meta)
    candidates = [
        i
        for i, leaf in enumerate(tree.leaves)
        if (_may_be_weights(leaf) if weights is None else _is_named(leaf.path, weights))
    ]
    if len(candidates) != 1:
        raise ValueError(_not_one(tree, weights, candidates))
    (position,) = candidates
    leaf = tree.leaves[position]
    if not _may_be_weights(leaf):
        raise ValueError(
            f"{leaf.path} is {leaf.aval.dtype}{list(leaf.aval.shape)}. Weights are an array of "
            "floats, [n] for examples or [n, L] for tokens."
        )
    return WeightsLeaf(leaf.path, position, tree)


def as_numpy(array: Any) -> np.ndarray:
    """On the host, as float32 or float64, which plain formats hold."""
    array = np.asarray(jax.device_get(array))
    return array if array.dtype == np.float64 else array.astype(np.float32)


def _may_be_weights(leaf: Leaf) -> bool:
    return leaf.is_float and len(leaf.aval.shape) >= 1


def _is_named(path: str, name: str) -> bool:
    return path == name or path.endswith((f"[{name!r}]", f".{name}"))


def _not_one(tree: Tree, weights: str | None, candidates: list[int]) -> str:
    paths = [tree.leaves[i].path for i in candidates]
    every = ", ".join(leaf.path for leaf in tree.leaves) or "no arrays"
    if weights is None:
        which = f"are several ({', '.join(paths)})" if paths else "is none"
        return (
            "weights=None takes the only float array of meta that is not a scalar, and there "
            f'{which}. Name the leaf with the weights: weights="weight". meta has {every}.'
        )
    if paths:
        return f"weights={weights!r} names several leaves: {', '.join(paths)}. Give a whole path."
    return f"weights={weights!r} names no leaf of meta, which has {every}"
