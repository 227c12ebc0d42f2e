"""What a tier is: slots for states, in one kind of memory.

A new tier takes one class that does what `Tier` says. If its moves need a thread, `BackgroundTier`
has all of it but the moves themselves.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

import jax
import numpy as np

from metagrad.runtime.tiers import errors


@dataclasses.dataclass
class Traffic:
    """What a tier has moved since it was made, for an executor's log."""

    bytes_written: int = 0
    bytes_read: int = 0
    seconds_waited: float = 0.0
    """How long calls waited for moves: what the moves cost beyond what they hide behind."""


class Tier(Protocol):
    """Slots for states of the same shapes and dtypes.

    A state is a flat list of arrays. A slot is written, read any number of times, and freed. One
    thread uses a tier. Arrays that were given to `write` may be donated once `flush` has returned,
    if `copies` is True; if it is False, the tier keeps the arrays themselves until they are freed.

    `with` closes the tier at its end.
    """

    name: str
    """ "device", "host" or "disk"."""

    budget: int | None
    """The most bytes that the slots may take together; None is no limit."""

    copies: bool
    """Whether a slot is a copy of the arrays, and not the arrays themselves."""

    traffic: Traffic

    def allocate(self, slots: int, avals: Sequence[jax.ShapeDtypeStruct]) -> None:
        """Makes `slots` empty slots, in place of those that there were.

        Args:
          slots: how many.
          avals: shapes and dtypes of the arrays of a state.

        Raises:
          BudgetError: they take more than the budget.
          SlotError: there is no room for them, or the place cannot be written.
        """
        ...

    def write(self, slot: int, arrays: Sequence[Any]) -> None:
        """Puts a state into a slot, in place of what is there.

        Returns at once, as long as no more than a few writes are on their way; it waits otherwise,
        since states on their way are held in memory. Writes happen in order.

        Raises:
          ValueError: there is no such slot, or the arrays are not like those of `allocate`.
          SlotError: an earlier write failed. The other slots stay good.
        """
        ...

    def prefetch(self, slot: int) -> None:
        """Starts a read that will be asked for soon.

        It is a hint: beyond a few states on their way nothing is started.

        Raises:
          ValueError: nothing is in the slot.
          SlotError: an earlier write failed.
        """
        ...

    def read(self, slot: int) -> list[Any]:
        """The state in a slot, with the shardings of the arrays that were written.

        Raises:
          ValueError: nothing is in the slot.
          SlotError: the slot cannot be read, or an earlier write failed.
          DamagedSlotError: what is there is not what was written.
        """
        ...

    def free(self, slot: int) -> None:
        """Says that what is in a slot is not needed any more. An empty slot may be freed."""
        ...

    def flush(self) -> None:
        """Waits until all writes are done.

        Raises:
          SlotError: one of them failed.
        """
        ...

    def close(self) -> None:
        """Gives everything back: memory, files, threads.

        It may be called again; nothing else may.
        """
        ...

    @property
    def bytes_in_use(self) -> int:
        """Bytes of the slots that something is in."""
        ...

    def __enter__(self) -> Tier: ...

    def __exit__(self, *error: object) -> None: ...


class Slots:
    """The part that all tiers share: the number of slots, what a state looks like, the budget."""

    name: str
    copies: bool

    def __init__(self, budget: int | None = None):
        self.budget = budget
        self.traffic = Traffic()
        self.slots = 0
        self.slot_bytes = 0
        self._like: list[tuple[tuple[int, ...], np.dtype]] = []

    def _allocate(self, slots: int, avals: Sequence[Any]) -> None:
        self.slots = 0
        slot_bytes = self.stored_bytes([nbytes(aval) for aval in avals])
        errors.check_budget(self.name, slots, slot_bytes, self.budget)
        self.slots, self.slot_bytes = slots, slot_bytes
        self._like = [(tuple(aval.shape), aval.dtype) for aval in avals]

    def stored_bytes(self, sizes: Sequence[int]) -> int:
        """Bytes of a slot for a state whose arrays have these sizes."""
        return sum(sizes)

    def _check_slot(self, slot: int) -> None:
        if not 0 <= slot < self.slots:
            raise ValueError(
                f"the {self.name} tier has {self.slots} slots, and slot {slot} is none of them"
            )

    def _check_arrays(self, slot: int, arrays: Sequence[Any]) -> None:
        self._check_slot(slot)
        if len(arrays) != len(self._like):
            raise ValueError(
                f"slot {slot} of the {self.name} tier takes {len(self._like)} arrays, "
                f"got {len(arrays)}"
            )
        for number, (array, (shape, dtype)) in enumerate(zip(arrays, self._like)):
            if array.shape != shape or array.dtype != dtype:
                raise ValueError(
                    f"array {number} for slot {slot} of the {self.name} tier must be "
                    f"{dtype}{list(shape)}, got {array.dtype}{list(array.shape)}"
                )

    def _nothing_in(self, slot: int) -> ValueError:
        self._check_slot(slot)
        return ValueError(f"nothing is in slot {slot} of the {self.name} tier")

    def __enter__(self):
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """See `Tier.close`."""
        self.slots = 0


def nbytes(aval: Any) -> int:
    """Bytes of an array with this shape and dtype on the host. `aval` may be one of keys."""
    if jax.dtypes.issubdtype(aval.dtype, jax.dtypes.prng_key):
        aval = jax.eval_shape(jax.random.key_data, jax.ShapeDtypeStruct(aval.shape, aval.dtype))
    return int(np.prod(aval.shape, dtype=np.int64)) * np.dtype(aval.dtype).itemsize
