"""Where the arrays of a streamed run lie on several devices.

State, meta and batches lie as the caller has them. What the programs return lies the same way: a
state like the first one, a cotangent like its primal. Left to itself, XLA chooses the placement of
each result; what comes back into a program would then be placed otherwise than what it was compiled
for, it would be compiled again, and a run that is resumed might add up in another order.

Small results that the host looks at (the value, auxiliary results, checksums) are on each device.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding

from metagrad.runtime.streams.batch_shards import with_leading_axes


def mesh_of_arrays(arrays: Iterable[Any], shardings: Iterable[Sharding] = ()) -> Mesh | None:
    """The mesh on which arrays lie, if one of them is on several devices.

    Raises:
      TypeError: an array is on several devices, and its sharding has no mesh.
    """
    of_arrays = [array.sharding for array in arrays if isinstance(array, jax.Array)]
    for sharding in [*of_arrays, *shardings]:
        if sharding.num_devices > 1:
            if not isinstance(sharding, NamedSharding):
                raise TypeError(
                    "a streamed run takes arrays on several devices that have a "
                    f"jax.sharding.NamedSharding; one has {sharding!r:.80}"
                )
            assert isinstance(sharding.mesh, Mesh)
            return sharding.mesh
    return None


def on_each_device(array: Any, mesh: Mesh) -> Any:
    """An array that is not committed to a device, on each device of the mesh; others stay."""
    if isinstance(array, jax.Array) and array.committed:
        return array
    if isinstance(array, jax.Array):
        array = np.asarray(array)
    array = np.asarray(array, jax.dtypes.canonicalize_dtype(array.dtype))
    # Nothing is sent: each process has the array.
    return jax.make_array_from_callback(
        array.shape, NamedSharding(mesh, PartitionSpec()), array.__getitem__
    )


@dataclasses.dataclass(frozen=True)
class RunShardings:
    """The shardings of a run's arrays.

    Attributes:
      state, meta: of the leaves of the state and of meta.
      batches: of the leaves [L, ...] of a segment's batches.
      replicated: on each device.
    """

    state: tuple[Sharding, ...]
    meta: tuple[Sharding, ...]
    batches: tuple[Sharding, ...]
    replicated: NamedSharding

    @property
    def spans_processes(self) -> bool:
        """Whether some of the devices belong to another process."""
        return not self.replicated.is_fully_addressable

    def parts(
        self,
        changed: Sequence[int],
        state_bar: Sequence[int],
        meta_bar: Sequence[int],
        batch_bar: Sequence[int],
        queries: int,
    ) -> Mapping[str, Sequence[Sharding]]:
        """The shardings of what a run has at hand between two programs, by name.

        Args:
          changed, state_bar, meta_bar, batch_bar: which leaves of each group.
          queries: 1 where cotangents have an axis of queries in front, else 0.
        """
        wider = lambda sharding: with_leading_axes(sharding, queries)
        state = [self.state[i] for i in changed]
        # The host takes them, and may not look at what another process has.
        batches = [self.replicated] * len(self.batches) if self.spans_processes else self.batches
        return {
            "state": state,
            "final": state,
            "state_bar": [wider(self.state[i]) for i in state_bar],
            "meta_bar": [wider(self.meta[i]) for i in meta_bar],
            "batch_bar": [wider(batches[i]) for i in batch_bar],
        }


def own_pieces(array: Any) -> list[Any]:
    """What this process has of an array: the array itself, or its pieces on own devices.

    What several devices have copies of is one piece.
    """
    if not isinstance(array, jax.Array) or array.is_fully_addressable:
        return [array]
    pieces: dict[tuple, Any] = {}
    for shard in array.addressable_shards:
        pieces.setdefault(_key(shard.index), shard.data)
    return list(pieces.values())


def put_together(
    shape: tuple[int, ...], sharding: Sharding, pieces: Iterator[np.ndarray]
) -> jax.Array:
    """An array on devices of several processes, of what `own_pieces` gave in this one.

    It takes as many of the pieces as it has.
    """
    keys = dict.fromkeys(
        _key(index) for index in sharding.addressable_devices_indices_map(shape).values()
    )
    # No more than these: what comes behind are the pieces of the next array.
    piece_of = {key: next(pieces) for key in keys}
    return jax.make_array_from_callback(shape, sharding, lambda index: piece_of[_key(index)])


def _key(index: Any) -> tuple:
    # Slices are no keys of a dictionary in Python 3.11.
    return tuple((part.start, part.stop) for part in index or ())
