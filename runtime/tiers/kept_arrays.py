"""A tier that keeps the arrays themselves: nothing is copied, and nothing moves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from metagrad.runtime.tiers.tier import Slots


class KeptArrays(Slots):
    """Slots that hold references. Arrays in them must not be donated.

    It is the device tier, and the host tier of a CPU, where a copy would take the memory twice
    while it is made and lie in the same memory afterwards.
    """

    copies = False

    def __init__(self, name: str, budget: int | None = None):
        super().__init__(budget)
        self.name = name
        self._contents: dict[int, list] = {}

    def allocate(self, slots: int, avals: Sequence[Any]) -> None:
        """See `Tier.allocate`. The memory is that of the arrays that will be written."""
        self._contents.clear()
        self._allocate(slots, avals)

    def write(self, slot: int, arrays: Sequence[Any]) -> None:
        """See `Tier.write`."""
        self._check_arrays(slot, arrays)
        self._contents[slot] = list(arrays)

    def prefetch(self, slot: int) -> None:
        """See `Tier.prefetch`. Nothing has to move."""
        if slot not in self._contents:
            raise self._nothing_in(slot)

    def read(self, slot: int) -> list[Any]:
        """See `Tier.read`."""
        self.prefetch(slot)
        return list(self._contents[slot])

    def free(self, slot: int) -> None:
        """See `Tier.free`."""
        self._check_slot(slot)
        self._contents.pop(slot, None)

    def flush(self) -> None:
        """See `Tier.flush`."""

    def close(self) -> None:
        """See `Tier.close`."""
        self._contents.clear()
        super().close()

    @property
    def bytes_in_use(self) -> int:
        """See `Tier.bytes_in_use`."""
        return len(self._contents) * self.slot_bytes
