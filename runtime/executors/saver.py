"""Saves points of a streamed run in its journal, and takes a run up at the last one.

A point is the standing after an action, what is in the slots then, and what was collected until
then. The content of a slot is stored once, for the first point that finds it there; later points
refer to it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from metagrad.runtime.executors.kernels import Arrays
from metagrad.runtime.executors.save_turns import OwnTurns, Turns
from metagrad.runtime.executors.streamed import Slots, Standing
from metagrad.runtime.journal import Journal, PayloadRef, Point

_PARTS = ("state", "value", "final", "state_bar", "meta_bar")
_CONSTANT = ("value", "final")
"""What does not change once it is there, so that it is stored once."""
_SLOT = "slot "
_TABLE = "table "


class Kept(Protocol):
    """What a run collects besides its standing, and must find again."""

    def arrays(self) -> list[np.ndarray]:
        """Copies of what was collected until now."""

    def restore(self, arrays: Sequence[np.ndarray]) -> None:
        """Takes up what an earlier process had collected."""


class Storage(Protocol):
    """How the arrays of a run become those of a payload, and back."""

    def take_apart(self, arrays: Arrays) -> Arrays:
        """What this process stores of some arrays."""

    def put_together(self, part: str, stored: Sequence[np.ndarray]) -> Arrays:
        """The arrays, where those of the run are.

        Args:
          part: which arrays of a standing they are: "state", ...
        """


class Saver:
    """The slots of a run, with a journal of what is in them, and the points of the run.

    Args:
      journal: where points are saved.
      slots: the slots themselves.
      kept: what else belongs to a point, by name.
      every: seconds from one point to the next, at least. With 0 a point follows as soon as the one
        before is saved.
      storage: what is stored of arrays.
      turns: whether a point is saved when this process is ready for one.
    """

    def __init__(
        self,
        journal: Journal,
        slots: Slots,
        kept: Mapping[str, Kept],
        every: float,
        storage: Storage,
        turns: Turns | None = None,
    ):
        self._journal, self._slots, self._kept, self._every = journal, slots, kept, every
        self._storage, self._turns = storage, turns or OwnTurns()
        # None: nothing of what is in the slot has been stored yet.
        self._contents: dict[int, PayloadRef | None] = {}
        self._constant: dict[str, PayloadRef] = {}
        self._is_under_way = False
        self._saved = time.monotonic()

    # The slots, as the executor uses them.

    def write(self, slot: int, arrays: Arrays) -> None:
        self._slots.write(slot, arrays)
        self._contents[slot] = None

    def read(self, slot: int) -> Arrays:
        return self._slots.read(slot)

    def prefetch(self, slot: int) -> None:
        self._slots.prefetch(slot)

    def free(self, slot: int) -> None:
        self._slots.free(slot)
        self._contents.pop(slot, None)

    # Points.

    def point(self, standing: Standing) -> Callable[[], None] | None:
        """Begins a point after an action that has been started, if it is time for one.

        What it returns is to be called when the action is done.
        """
        now = time.monotonic()
        # One point at a time: the journal keeps what is stored until the second commit after that.
        # And a disk that cannot keep up gets fewer points, rather than holding up the run.
        is_free = not self._is_under_way and not self._journal.pending
        is_durable = is_free and self._journal.is_durable
        if not self._turns.saves(is_free and now - self._saved >= self._every, is_durable):
            return None
        self._saved, self._is_under_way = now, True
        payloads = self._store_parts(standing)
        for slot, ref in self._contents.items():
            if ref is None:
                ref = self._contents[slot] = self._store(self._slots.read(slot))
            payloads[f"{_SLOT}{slot}"] = ref
        position = standing.position
        return lambda: self._commit(position, payloads)

    def _store_parts(self, standing: Standing) -> dict[str, PayloadRef]:
        refs = {}
        for name in _PARTS:
            if arrays := getattr(standing, name):
                refs[name] = self._constant.get(name) or self._store(arrays)
        self._constant = {name: refs[name] for name in _CONSTANT if name in refs}
        return refs

    def _store(self, arrays: Arrays) -> PayloadRef:
        return self._journal.store(self._storage.take_apart(arrays))

    def _commit(self, position: int, payloads: dict[str, PayloadRef]) -> None:
        tables = {
            f"{_TABLE}{name}": self._journal.store(kept.arrays())
            for name, kept in self._kept.items()
        }
        self._journal.commit(position, {}, payloads | tables)
        self._is_under_way = False

    def resume(self, point: Point) -> Standing:
        """The standing at a point. Slots and what else is kept are as they were then."""
        arrays: dict[str, Any] = {name: [] for name in _PARTS}
        for name, ref in point.payloads.items():
            loaded = self._journal.load(ref)
            if name.startswith(_TABLE):
                self._kept[name.removeprefix(_TABLE)].restore(loaded)
            elif name.startswith(_SLOT):
                slot = int(name.removeprefix(_SLOT))
                self._slots.write(slot, self._storage.put_together("state", loaded))
                self._contents[slot] = ref
            else:
                if name in _CONSTANT:
                    self._constant[name] = ref
                arrays[name] = self._storage.put_together(name, loaded)
        return Standing(point.position, **arrays)
