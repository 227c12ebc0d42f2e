"""The slots of a plan, each in the tier that was chosen for it."""

from __future__ import annotations

import collections
import contextlib
from collections.abc import Sequence
from typing import Any

import jax

from metagrad.runtime.tiers.tier import Tier


class PlacedSlots:
    """Slots 0, 1, ... of a plan over several tiers. The calls are those of `Tier`.

    `with` closes the tiers at its end.
    """

    def __init__(self, tiers: Sequence[Tier], tier_of_slot: Sequence[int]):
        """
        Args:
          tiers: the tiers. They are closed with this object.
          tier_of_slot: for each slot of the plan, the index of its tier.
        """
        self.tiers = tuple(tiers)
        self._counts: collections.Counter[int] = collections.Counter()
        self._places: list[tuple[Tier, int]] = []
        for index in tier_of_slot:
            self._places.append((self.tiers[index], self._counts[index]))
            self._counts[index] += 1

    def allocate(self, avals: Sequence[jax.ShapeDtypeStruct]) -> None:
        """Makes the slots that were asked for in each tier; errors are those of `Tier.allocate`."""
        for index, tier in enumerate(self.tiers):
            tier.allocate(self._counts[index], avals)

    def tier(self, slot: int) -> Tier:
        """The tier of a slot."""
        return self._places[slot][0]

    def write(self, slot: int, arrays: Sequence[Any]) -> None:
        """See `Tier.write`."""
        tier, place = self._places[slot]
        tier.write(place, arrays)

    def prefetch(self, slot: int) -> None:
        """See `Tier.prefetch`."""
        tier, place = self._places[slot]
        tier.prefetch(place)

    def read(self, slot: int) -> list[Any]:
        """See `Tier.read`."""
        tier, place = self._places[slot]
        return tier.read(place)

    def free(self, slot: int) -> None:
        """See `Tier.free`."""
        tier, place = self._places[slot]
        tier.free(place)

    def flush(self) -> None:
        """See `Tier.flush`."""
        for tier in self.tiers:
            tier.flush()

    def close(self) -> None:
        """Closes all tiers, also if closing one of them fails."""
        with contextlib.ExitStack() as stack:
            for tier in self.tiers:
                stack.callback(tier.close)

    @property
    def bytes_in_use(self) -> dict[str, int]:
        """Bytes of the slots that something is in, by the names of the tiers."""
        return {tier.name: tier.bytes_in_use for tier in self.tiers}

    def __enter__(self) -> PlacedSlots:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
