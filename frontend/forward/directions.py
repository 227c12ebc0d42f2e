"""The directions of forward mode: one for each entry of the float leaves that `wrt` names."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from metagrad.frontend.pytrees import Leaf

ORDER = ("state", "meta", "batches")
"""The groups in the order of the program's arguments, and of its gradients."""


@dataclasses.dataclass(frozen=True)
class Place:
    """The directions of one float leaf: those from `start` on, one for each of its entries.

    Attributes:
      group: "state", "meta" or "batches".
      index: of the leaf in its group.
      leaf: the leaf; of batches with the leading axis of length T.
      start: the number of the first direction.
    """

    group: str
    index: int
    leaf: Leaf
    start: int

    @property
    def size(self) -> int:
        return math.prod(self.leaf.aval.shape)

    def tangents(self, count: int) -> jax.Array:
        """[K, *shape]: in direction start + i entry i is one, all else is zero."""
        return self._ones(count, self.start, self.leaf.aval.shape)

    def tangents_of_step(self, count: int, t: Any) -> jax.Array:
        """[K, *shape of a batch's leaf]: the rows of `tangents` that step t reads."""
        shape = self.leaf.aval.shape[1:]
        return self._ones(count, self.start + t * math.prod(shape), shape)

    def _ones(self, count: int, start: Any, shape: tuple[int, ...]) -> jax.Array:
        entries = jnp.arange(math.prod(shape)).reshape(1, *shape)
        numbers = jnp.arange(count).reshape(count, *(1 for _ in shape))
        return (numbers - start == entries).astype(self.leaf.aval.dtype)

    def gradient(self, products: jax.Array) -> jax.Array:
        """The leaf's gradient, of [*queries, K] derivatives of the value along all directions."""
        part = products[..., self.start : self.start + self.size]
        shape = (*products.shape[:-1], *self.leaf.aval.shape)
        return part.reshape(shape).astype(self.leaf.aval.dtype)


def places(gradient_leaves: Sequence[tuple[str, int, Leaf]]) -> tuple[Place, ...]:
    """The places of the leaves of a gradient, (group, index in the group, leaf), in their order."""
    result, start = [], 0
    for group, index, leaf in gradient_leaves:
        result.append(Place(group, index, leaf, start))
        start += result[-1].size
    return tuple(result)


def count(of: Sequence[Place]) -> int:
    """K, the number of directions."""
    return sum(place.size for place in of)
