"""How the arguments of a metagradient are sharded: by path, those that lie on several devices."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
from jax.sharding import Sharding

from metagrad.frontend.pytrees import Leaf, Tree

Shardings = Mapping[str, Sharding]
"""The sharding of each leaf that lies on several devices, by its path."""


def shardings_of(trees: Sequence[Tree], arguments: Sequence[Any]) -> Shardings:
    """The shardings of arrays, and of `jax.ShapeDtypeStruct`s that have one."""
    return {
        leaf.path: array.sharding
        for tree, argument in zip(trees, arguments, strict=True)
        for leaf, array in zip(tree.leaves, tree.arrays(argument), strict=True)
        if isinstance(array, (jax.Array, jax.ShapeDtypeStruct))
        and not isinstance(array, jax.core.Tracer)
        and is_on_several(array.sharding)
    }


def is_on_several(sharding: Any) -> bool:
    """Whether it places an array on more than one device."""
    # A sharding on an abstract mesh says how, and not yet where.
    return isinstance(sharding, Sharding) and sharding.num_devices > 1


def as_stored(leaf: Leaf, shardings: Shardings) -> jax.ShapeDtypeStruct:
    """A leaf as the program takes it, with its sharding.

    The data of a typed key has axes behind those of the key, along which it is not sharded.
    """
    aval = leaf.stored
    return jax.ShapeDtypeStruct(aval.shape, aval.dtype, sharding=shardings.get(leaf.path))


def device_bytes(leaves: Iterable[Leaf], shardings: Shardings) -> int:
    """What the leaves take on one device."""
    return sum(map(math.prod, _local(leaves, shardings)))


def _local(leaves: Iterable[Leaf], shardings: Shardings):
    for leaf in leaves:
        shape, sharding = leaf.stored.shape, shardings.get(leaf.path)
        if sharding is not None:
            shape = sharding.shard_shape(shape)
        yield (*shape, leaf.stored.dtype.itemsize)


def share_of_shape(leaves: Iterable[Leaf], shardings: Shardings) -> dict[tuple[int, ...], float]:
    """For each shape of a leaf, which part of such an array one device has.

    An inner gradient has the shape of parameters, and XLA shards it like them.
    """
    shares: dict[tuple[int, ...], float] = {}
    for leaf in leaves:
        sharding = shardings.get(leaf.path)
        if sharding is not None and (whole := math.prod(leaf.stored.shape)):
            part = math.prod(sharding.shard_shape(leaf.stored.shape)) / whole
            shares[leaf.stored.shape] = min(part, shares.get(leaf.stored.shape, 1.0))
    return shares
