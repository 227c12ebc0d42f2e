"""Arrays as bytes in host memory, and back.

An array is one piece of bytes for each shard; what several devices hold copies of is one piece. A
`Placement` remembers the rest: which devices the pieces belong to, and how they make an array.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Sharding, SingleDeviceSharding

# JAX takes an array on the host as it is, without a copy, if it begins at a multiple of this.
ALIGNMENT = 64


@dataclasses.dataclass(frozen=True)
class Placement:
    """How an array lies on its devices.

    Attributes:
      shape: of the whole array; of an array of keys, with the axes of a key's words.
      dtype: of the bytes.
      sharding: None for a NumPy array.
      committed: whether JAX may not move the array to another device by itself.
      key: the implementation, if it is an array of keys.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    sharding: Sharding | None
    committed: bool
    key: Any = None

    def pieces(self) -> list[Piece]:
        """The pieces that the array is cut into."""
        if self.sharding is None:
            return [Piece(self.shape, ())]
        return _pieces(self.shape, self.sharding)


@dataclasses.dataclass(frozen=True)
class Piece:
    """A piece of an array: its shape, and each device that holds it, with the kind of memory."""

    shape: tuple[int, ...]
    places: tuple[SingleDeviceSharding, ...]


@functools.lru_cache(maxsize=4096)
def _pieces(shape: tuple[int, ...], sharding: Sharding) -> list[Piece]:
    if isinstance(sharding, SingleDeviceSharding):
        return [Piece(shape, (sharding,))]
    places: dict[tuple, list[SingleDeviceSharding]] = {}
    for device, index in sharding.addressable_devices_indices_map(shape).items():
        # Slices are no keys of a dictionary in Python 3.11.
        key = tuple((part.start, part.stop) for part in index or ())
        place = SingleDeviceSharding(device, memory_kind=sharding.memory_kind)
        places.setdefault(key, []).append(place)
    cut = tuple(sharding.shard_shape(shape))
    return [Piece(cut, tuple(copies)) for copies in places.values()]


def take_apart(array: Any) -> tuple[Placement, list[np.ndarray]]:
    """The placement of an array, and its pieces as flat bytes.

    On a CPU the bytes are those of the array itself. Waits until the array is computed; another
    thread runs meanwhile.
    """
    if not isinstance(array, jax.Array):
        return Placement(array.shape, array.dtype, None, False), [_flat(array)]
    key = None
    if jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key):
        key = jax.random.key_impl(array)
        array = jax.random.key_data(array)
    array.block_until_ready()
    single = isinstance(array.sharding, SingleDeviceSharding)
    committed = array.committed or not single
    placement = Placement(array.shape, array.dtype, array.sharding, committed, key)
    if single:
        return placement, [_flat(np.asarray(array))]
    shards = {shard.device: shard.data for shard in array.addressable_shards}
    holders = [next(iter(piece.places[0].device_set)) for piece in placement.pieces()]
    return placement, [_flat(np.asarray(shards[device])) for device in holders]


def offsets(sizes: Iterable[int]) -> list[int]:
    """Where arrays of these sizes begin when they lie one behind the other, and the end of all."""
    return [0, *itertools.accumulate(-(-size // ALIGNMENT) * ALIGNMENT for size in sizes)]


def cut(
    placements: Sequence[Placement], memory: np.ndarray, starts: Sequence[int]
) -> list[list[np.ndarray]]:
    """The pieces of arrays in a state's bytes, without copying them.

    Args:
      placements: of the arrays.
      memory: bytes.
      starts: where each array begins; its pieces lie one behind the other.
    """
    arrays = []
    for placement, start in zip(placements, starts):
        pieces = []
        for piece in placement.pieces():
            end = start + math.prod(piece.shape) * placement.dtype.itemsize
            if start < end:
                pieces.append(memory[start:end].view(placement.dtype).reshape(piece.shape))
            else:
                pieces.append(np.empty(piece.shape, placement.dtype))
            start = end
        arrays.append(pieces)
    return arrays


def put_together(
    placements: Sequence[Placement], memory: Sequence[Sequence[np.ndarray]]
) -> list[Any]:
    """The arrays that the pieces make; `memory` has those of each.

    JAX may go on using the memory, so nothing else may write to it.
    """
    # One call for all of them: JAX takes longer for a call than for an array.
    hosts: list[np.ndarray] = []
    places: list[SingleDeviceSharding] = []
    for placement, pieces in zip(placements, memory):
        if placement.committed:
            for host, piece in zip(pieces, placement.pieces()):
                hosts += [host] * len(piece.places)
                places += piece.places
    # Settings of a `with` are those of one thread, which need not be this one. Without double
    # precision JAX would round what is put on a device.
    with jax.enable_x64(True):
        parts = iter(jax.device_put(hosts, places))
        free = iter(_uncommitted(placements, memory))
        return [
            _array(placement, pieces, parts, free) for placement, pieces in zip(placements, memory)
        ]


def _uncommitted(
    placements: Sequence[Placement], memory: Sequence[Sequence[np.ndarray]]
) -> list[jax.Array]:
    """The arrays that are not committed to the device they are on, in order."""
    chosen = [
        (device, pieces[0])
        for placement, pieces in zip(placements, memory)
        if placement.sharding is not None and not placement.committed
        for device in placement.sharding.device_set
    ]
    arrays: list[jax.Array] = []
    for device, group in itertools.groupby(chosen, key=lambda pair: pair[0]):
        with jax.default_device(device):
            arrays += jax.device_put([host for _, host in group])
    return arrays


def _array(
    placement: Placement,
    pieces: Sequence[np.ndarray],
    parts: Iterator[jax.Array],
    free: Iterator[jax.Array],
) -> Any:
    sharding = placement.sharding
    if sharding is None:
        return pieces[0]
    if not placement.committed:
        array = next(free)
    elif isinstance(sharding, SingleDeviceSharding):
        array = next(parts)
    else:
        number = sum(len(piece.places) for piece in placement.pieces())
        array = jax.make_array_from_single_device_arrays(
            placement.shape, sharding, list(itertools.islice(parts, number))
        )
    return array if placement.key is None else jax.random.wrap_key_data(array, impl=placement.key)


def _flat(array: np.ndarray) -> np.ndarray:
    if not array.nbytes:
        return np.empty(0, np.uint8)
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)
