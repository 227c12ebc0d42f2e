"""The tier in the host's memory."""

from __future__ import annotations

import collections
import errno
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from metagrad.runtime.byte_sizes import format_bytes
from metagrad.runtime.tiers.background import BackgroundTier
from metagrad.runtime.tiers.errors import SlotError
from metagrad.runtime.tiers.kept_arrays import KeptArrays
from metagrad.runtime.tiers.tier import Slots, Tier


def host_tier(budget: int | None = None, device: jax.Device | None = None) -> Tier:
    """The host tier that serves a device best.

    - A CPU's arrays are in the host's memory already: the tier keeps them, within its budget.
    - A device that has pinned host memory copies to it and from it by itself.
    - For others the arrays are copied into buffers, by a thread.

    Args:
      budget: the most bytes that the slots may take together; None is no limit.
      device: whose arrays they are; the default device if it is None.
    """
    device = device or jax.local_devices()[0]
    if device.platform == "cpu":
        return KeptArrays("host", budget)
    if any(memory.kind == "pinned_host" for memory in device.addressable_memories()):
        return PinnedHostTier(budget)
    return HostBuffers(budget)


class PinnedHostTier(Slots):
    """Slots in pinned memory, which the device reads and writes by itself.

    JAX starts the copies in the order of the program and lets the compute go on, so there is no
    thread here.
    """

    name = "host"
    copies = True

    def __init__(self, budget: int | None = None, *, pending: int = 2):
        """
        Args:
          budget: the most bytes that the slots may take together; None is no limit.
          pending: how many states may be on their way out, at least 1. The device's memory holds
              them meanwhile.
        """
        super().__init__(budget)
        self.pending = pending
        self._contents: dict[int, list[jax.Array]] = {}
        self._shardings: dict[int, list] = {}
        self._incoming: dict[int, list[jax.Array]] = {}
        self._outgoing: collections.deque[list[jax.Array]] = collections.deque()

    def allocate(self, slots: int, avals: Sequence[Any]) -> None:
        """See `Tier.allocate`. JAX takes the memory when states are written, and keeps it."""
        self.close()
        self._allocate(slots, avals)

    def write(self, slot: int, arrays: Sequence[Any]) -> None:
        """See `Tier.write`.

        Raises:
          TypeError: an array is not on a device.
        """
        self._check_arrays(slot, arrays)
        for number, array in enumerate(arrays):
            if not isinstance(array, jax.Array):
                raise TypeError(
                    f"array {number} for slot {slot} of the host tier must be on a device, and is "
                    f"a {type(array).__name__}: put it there with jax.device_put"
                )
        self.free(slot)
        self._wait_for_writes(self.pending - 1)
        shardings = [array.sharding for array in arrays]
        copies = jax.device_put(
            list(arrays), [sharding.with_memory_kind("pinned_host") for sharding in shardings]
        )
        self._contents[slot], self._shardings[slot] = copies, shardings
        self._outgoing.append(copies)
        self.traffic.bytes_written += self.slot_bytes

    def prefetch(self, slot: int) -> None:
        """See `Tier.prefetch`."""
        if slot not in self._contents:
            raise self._nothing_in(slot)
        if slot not in self._incoming and len(self._incoming) < 2:
            self._incoming[slot] = self._start_read(slot)

    def read(self, slot: int) -> list[Any]:
        """See `Tier.read`. The arrays are committed; the copy may be still on its way."""
        if slot not in self._contents:
            raise self._nothing_in(slot)
        return self._incoming.pop(slot, None) or self._start_read(slot)

    def free(self, slot: int) -> None:
        """See `Tier.free`."""
        self._check_slot(slot)
        for kept in (self._contents, self._shardings, self._incoming):
            kept.pop(slot, None)

    def flush(self) -> None:
        """See `Tier.flush`."""
        self._wait_for_writes(0)

    def close(self) -> None:
        """See `Tier.close`."""
        for kept in (self._contents, self._shardings, self._incoming, self._outgoing):
            kept.clear()
        super().close()

    @property
    def bytes_in_use(self) -> int:
        """See `Tier.bytes_in_use`."""
        return len(self._contents) * self.slot_bytes

    def _start_read(self, slot: int) -> list[jax.Array]:
        self.traffic.bytes_read += self.slot_bytes
        return jax.device_put(self._contents[slot], self._shardings[slot])

    def _wait_for_writes(self, most: int) -> None:
        start = time.perf_counter()
        while len(self._outgoing) > most:
            jax.block_until_ready(self._outgoing.popleft())
        self.traffic.seconds_waited += time.perf_counter() - start


class HostBuffers(BackgroundTier):
    """Slots in buffers that are allocated once, for devices without pinned host memory."""

    name = "host"

    def reserve(self) -> None:
        try:
            self._buffers = [np.empty(self.slot_bytes, np.uint8) for _ in range(self.slots)]
        except MemoryError:
            wanted = format_bytes(self.slots * self.slot_bytes)
            raise SlotError(
                errno.ENOMEM,
                f"{self.slots} slots of the host tier take {wanted}, which this process does not "
                "get. Use a schedule with fewer slots, or give host= less and disk= more.",
            ) from None

    def store(self, slot: int, parts: list[tuple[int, np.ndarray]]) -> None:
        for offset, part in parts:
            np.copyto(self._buffers[slot][offset : offset + len(part)], part)

    def fetch(self, slot: int, memory: np.ndarray) -> None:
        np.copyto(memory, self._buffers[slot])

    def release(self) -> None:
        self._buffers = []
