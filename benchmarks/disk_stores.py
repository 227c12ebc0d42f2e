"""Ways to keep a state on disk, for `python -m benchmarks.tiers`: libraries, and our own tier.

Each is measured as a tier has to use it: what is written or read must not stay in the page cache,
or the cache grows by all that is on disk. So after each call the files are brought to the disk and
dropped from the cache, and each read comes from the disk.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
from collections.abc import Callable, Sequence
from typing import Protocol

import jax
import numpy as np

from metagrad.runtime.tiers import tier
from metagrad.runtime.tiers.disk import DiskTier
from metagrad.runtime.tiers.host import HostBuffers, PinnedHostTier


class Store(Protocol):
    """Keeps states in slots."""

    def write(self, slot: int, arrays: Sequence[jax.Array]) -> None: ...

    def read(self, slot: int) -> list: ...

    def drop(self, slot: int) -> None:
        """Brings a slot to the disk, and drops it from the page cache."""

    def close(self) -> None: ...


class Folder:
    """A folder with an entry for each slot; the base of what libraries write."""

    def __init__(self, folder: pathlib.Path, slots: int, arrays: Sequence[jax.Array]):
        self.folder = folder

    def entry(self, slot: int) -> pathlib.Path:
        return self.folder / str(slot)

    def drop(self, slot: int) -> None:
        drop_from_cache(self.entry(slot))

    def close(self) -> None:
        pass


class Tensorstore(Folder):
    """One zarr array for each leaf, not compressed, in one chunk."""

    def __init__(self, folder, slots, arrays):
        super().__init__(folder, slots, arrays)
        import tensorstore

        spec = lambda slot, number, leaf: {
            "driver": "zarr",
            "kvstore": {"driver": "file", "path": str(self.entry(slot) / str(number))},
            "metadata": {
                "shape": leaf.shape,
                "chunks": leaf.shape,
                "dtype": leaf.dtype.str,
                "compressor": None,
            },
            "create": True,
            "delete_existing": True,
        }
        leaves = [np.asarray(array) for array in arrays]
        opening = [
            [tensorstore.open(spec(slot, *numbered)) for numbered in enumerate(leaves)]
            for slot in range(slots)
        ]
        self._stores = [[future.result() for future in futures] for futures in opening]

    def write(self, slot, arrays):
        pairs = zip(self._stores[slot], arrays)
        for future in [store.write(np.asarray(array)) for store, array in pairs]:
            future.result()

    def read(self, slot):
        return [future.result() for future in [store.read() for store in self._stores[slot]]]


class Orbax(Folder):
    """A checkpoint for each slot."""

    def __init__(self, folder, slots, arrays):
        super().__init__(folder, slots, arrays)
        import orbax.checkpoint

        self._checkpointer = orbax.checkpoint.PyTreeCheckpointer()

    def write(self, slot, arrays):
        self._checkpointer.save(self.entry(slot), list(arrays), force=True)

    def read(self, slot):
        return self._checkpointer.restore(self.entry(slot))

    def close(self):
        self._checkpointer.close()


class Safetensors(Folder):
    """A file for each slot."""

    def write(self, slot, arrays):
        from safetensors.numpy import save_file

        leaves = {str(number): np.asarray(array) for number, array in enumerate(arrays)}
        save_file(leaves, self.entry(slot))

    def read(self, slot):
        from safetensors.numpy import load_file

        return list(load_file(self.entry(slot)).values())


class Memmap(Folder):
    """A mapped file for each slot."""

    def __init__(self, folder, slots, arrays):
        super().__init__(folder, slots, arrays)
        self._shapes = [(array.shape, array.dtype) for array in arrays]
        self._offsets = np.cumsum([0] + [array.nbytes for array in arrays])
        for slot in range(slots):
            with self.entry(slot).open("wb") as file:
                file.truncate(self._offsets[-1])

    def _leaves(self, slot: int, mode: str) -> tuple[np.memmap, list[np.ndarray]]:
        mapped = np.memmap(self.entry(slot), np.uint8, mode)
        cut = [mapped[start:stop] for start, stop in zip(self._offsets, self._offsets[1:])]
        return mapped, [
            part.view(dtype).reshape(shape) for part, (shape, dtype) in zip(cut, self._shapes)
        ]

    def write(self, slot, arrays):
        mapped, leaves = self._leaves(slot, "r+")
        for leaf, array in zip(leaves, arrays):
            leaf[...] = np.asarray(array)
        mapped.flush()

    def read(self, slot):
        return [leaf.copy() for leaf in self._leaves(slot, "r")[1]]


class PlainWrites(Folder):
    """`os.pwritev` of the leaves through the page cache."""

    def __init__(self, folder, slots, arrays):
        super().__init__(folder, slots, arrays)
        self._like = [(array.shape, array.dtype) for array in arrays]
        self._files = [os.open(self.entry(slot), os.O_RDWR | os.O_CREAT) for slot in range(slots)]

    def write(self, slot, arrays):
        views = [np.asarray(array).reshape(-1).view(np.uint8) for array in arrays]
        if os.pwritev(self._files[slot], views, 0) != sum(view.nbytes for view in views):
            raise OSError(f"slot {slot} was not written whole")

    def read(self, slot):
        leaves = [np.empty(shape, dtype) for shape, dtype in self._like]
        os.preadv(self._files[slot], [leaf.reshape(-1).view(np.uint8) for leaf in leaves], 0)
        return leaves

    def close(self):
        for file in self._files:
            os.close(file)


class Tier(Folder):
    """metagrad's tier, with nothing beside it: each call waits until the move is done."""

    def __init__(self, folder, slots, arrays):
        super().__init__(folder, slots, arrays)
        self._tier = self.make(folder)
        self._tier.allocate(slots, arrays)

    def make(self, folder: pathlib.Path) -> tier.Tier:
        return DiskTier(folder)

    def write(self, slot, arrays):
        self._tier.write(slot, arrays)
        self._tier.flush()

    def read(self, slot):
        return jax.block_until_ready(self._tier.read(slot))

    def drop(self, slot):
        pass  # It is not there.

    def close(self):
        self._tier.close()


class HostBufferTier(Tier):
    """Copies in buffers, for devices without pinned host memory."""

    def make(self, folder):
        return HostBuffers()


class PinnedTier(Tier):
    """JAX's own copies in pinned host memory."""

    def make(self, folder):
        return PinnedHostTier()


def drop_from_cache(path: pathlib.Path) -> None:
    """Waits until a file, or all of a folder, is on the disk, and drops it from the page cache."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    for file in files:
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fdatasync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


STORES: dict[str, Callable[[pathlib.Path, int, Sequence[jax.Array]], Store]] = {
    "tensorstore": Tensorstore,
    "orbax": Orbax,
    "safetensors": Safetensors,
    "numpy.memmap": Memmap,
    "os.pwritev": PlainWrites,
    "metagrad, disk": Tier,
    "metagrad, host buffers": HostBufferTier,
    "metagrad, pinned host": PinnedTier,
}


@contextlib.contextmanager
def opened(name: str, folder: pathlib.Path, slots: int, arrays: Sequence[jax.Array]):
    """A store in an empty folder, which is removed at the end."""
    place = folder / name
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    store = STORES[name](place, slots, arrays)
    try:
        yield store
    finally:
        store.close()
        shutil.rmtree(place, ignore_errors=True)
