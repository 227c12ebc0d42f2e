"""A batch on several devices: what this process reads of it, and the arrays that it makes of that.

A sharding is that of one batch. Batches are stacked over the steps of a segment, and the axis of
steps is not sharded. Each process reads the rows (entries of a leaf's first axis) that its devices
hold, and no others; a leaf that they hold whole is read whole.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding

from metagrad.runtime.streams.layout import BatchLayout, BatchLeaf

Rows = np.ndarray
"""The rows of one leaf that are read, integers [n] in ascending order."""


def check_sharding(sharding: Any) -> None:
    """Looks at what a user gives as `Stream(sharding=...)`.

    Raises:
      TypeError: an entry is not a sharding, or one of a kind that has no axes in front of others.
    """
    entries = jax.tree.leaves(sharding, is_leaf=lambda x: x is None or isinstance(x, Sharding))
    if not entries:
        raise TypeError(f"Stream(sharding=...) has no sharding in it: {sharding!r:.60}")
    for entry in entries:
        if not isinstance(entry, (NamedSharding, SingleDeviceSharding)):
            raise TypeError(
                "Stream(sharding=...) is a jax.sharding.NamedSharding of one batch, or a pytree of "
                f"them that is a prefix of a batch; got {entry!r:.80}"
            )


def leaf_shardings(sharding: Any, layout: BatchLayout) -> list[Sharding]:
    """The sharding of each leaf of a batch.

    Args:
      sharding: one for all leaves, or a pytree prefix of them.

    Raises:
      ValueError: the pytree is no prefix of a batch, or a leaf cannot be cut so; names the leaf.
    """
    is_leaf = lambda x: isinstance(x, Sharding)
    whole = jax.tree.unflatten(layout.structure, range(len(layout.leaves)))
    try:
        shardings = jax.tree.leaves(jax.tree.broadcast(sharding, whole, is_leaf), is_leaf=is_leaf)
    except ValueError:
        raise ValueError(
            "Stream(sharding=...) is not a prefix of a batch: its structure is "
            f"{jax.tree.structure(sharding, is_leaf=is_leaf)}, and a batch's {layout.structure}"
        ) from None
    for leaf, each in zip(layout.leaves, shardings, strict=True):
        axes = len(each.spec) if isinstance(each, NamedSharding) else 0
        try:
            if axes > len(leaf.aval.shape):
                raise ValueError(f"it has {axes} axes")
            each.shard_shape(leaf.aval.shape)
        except ValueError as error:
            raise ValueError(
                f"Stream(sharding=...): {leaf.path} of a batch has shape {leaf.aval.shape}, which "
                f"{each} does not divide: {error}"
            ) from None
    return shardings


def with_leading_axes(sharding: Sharding, axes: int) -> Sharding:
    """The sharding of arrays with so many unsharded axes in front.

    Raises:
      TypeError: it is of a kind that says nothing of axes.
    """
    if not axes or isinstance(sharding, SingleDeviceSharding):
        return sharding
    if not isinstance(sharding, NamedSharding):
        raise TypeError(
            f"metagrad follows jax.sharding.NamedSharding, and this is {sharding!r:.80}"
        )
    return sharding.update(spec=PartitionSpec(*axes * [None], *sharding.spec))


def first_own_row(sharding: Any, count: int) -> int:
    """A row of a batch of `count` rows that a device of this process holds."""
    entries = jax.tree.leaves(sharding, is_leaf=lambda x: isinstance(x, Sharding))
    for each in entries:
        if isinstance(each, NamedSharding) and each.spec and each.spec[0] is not None:
            rows = own_rows(each.update(spec=PartitionSpec(each.spec[0])), (count,))
            if rows is not None:
                return int(rows[0]) if len(rows) else 0
    return 0


def own_rows(sharding: Sharding, shape: tuple[int, ...]) -> Rows | None:
    """The rows of a leaf that this process's devices hold; None: all of them.

    Raises:
      ValueError: the sharding does not divide the shape.
    """
    if not shape or sharding.is_fully_addressable:
        return None
    is_own = np.zeros(shape[0], bool)
    for index in sharding.addressable_devices_indices_map(shape).values():
        is_own[index[0] if index else slice(None)] = True
    return None if is_own.all() else np.flatnonzero(is_own)


@dataclasses.dataclass(frozen=True)
class BatchShards:
    """The batches of a stream, as this process reads them.

    Attributes:
      layout: of whole batches.
      shardings: of the leaves of one batch.
      rows: of each leaf, what is read.
    """

    layout: BatchLayout
    shardings: tuple[Sharding, ...]
    rows: tuple[Rows | None, ...]

    @classmethod
    def of(cls, layout: BatchLayout, shardings: Sequence[Sharding]) -> BatchShards:
        """Batches of a layout, each leaf sharded as it says."""
        rows = tuple(
            own_rows(sharding, leaf.aval.shape) for sharding, leaf in zip(shardings, layout.leaves)
        )
        return cls(layout, tuple(shardings), rows)

    @property
    def stacked(self) -> list[Sharding]:
        """The shardings of leaves [L, ...] that are stacked over the steps of a segment."""
        return [with_leading_axes(sharding, 1) for sharding in self.shardings]

    def read_shape(self, position: int) -> tuple[int, ...]:
        """The shape of what is read of a leaf of one batch."""
        shape, rows = self.layout.leaves[position].stored.shape, self.rows[position]
        return shape if rows is None else (len(rows), *shape[1:])

    def place(self, buffers: Sequence[np.ndarray]) -> list[jax.Array]:
        """The arrays [L, ...] on their devices, of what was read.

        JAX may use the memory of the buffers: nobody writes to them afterwards. Nothing is sent
        from one process to another, so that any thread may call it.
        """
        return [
            self._placed(leaf, sharding, rows, buffer)
            for leaf, sharding, rows, buffer in zip(
                self.layout.leaves, self.stacked, self.rows, buffers, strict=True
            )
        ]

    def _placed(
        self, leaf: BatchLeaf, sharding: Sharding, rows: Rows | None, buffer: np.ndarray
    ) -> jax.Array:
        shape = (len(buffer), *leaf.stored.shape)

        def piece(index: tuple[slice, ...] | None) -> np.ndarray:
            if rows is None or index is None:
                return buffer if index is None else buffer[index]
            steps, own, *rest = index
            start, stop, _ = own.indices(shape[1])
            # The rows of a device lie one behind the other, here as well.
            first = int(np.searchsorted(rows, start))
            return buffer[(steps, slice(first, first + stop - start), *rest)]

        return jax.make_array_from_callback(shape, sharding, piece)
