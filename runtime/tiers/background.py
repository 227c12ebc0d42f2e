"""A tier whose moves run in threads, behind the compute.

There is one thread for writes, which keeps their order, and one for reads, so that a read that is
waited for does not stand behind writes that nobody waits for. Both spend their time in calls that
release Python's global lock.

A state on its way is in memory, so few may be: a write waits when `pending` states are already on
their way out, and a prefetch is dropped when `ahead` states are on their way in, or have arrived
and were not read yet.
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import dataclasses
import errno
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from metagrad.runtime.tiers.errors import SlotError
from metagrad.runtime.tiers.host_bytes import Placement, cut, offsets, put_together, take_apart
from metagrad.runtime.tiers.regions import Regions
from metagrad.runtime.tiers.tier import Slots, nbytes


@dataclasses.dataclass(eq=False)
class _Content:
    """What is in a slot, or on its way there."""

    arrays: list[Any] | None
    """The arrays themselves, as long as the write is on its way."""
    written: Future | None = None
    placements: list[Placement] | None = None
    """How the arrays lie on their devices; None until the write is done."""
    fetched: Future | None = None
    """The state on its way back, for the next read."""


class BackgroundTier(Slots):
    """Everything of a tier but its moves, which are `store` and `fetch` of a subclass."""

    copies = True

    def __init__(
        self,
        budget: int | None = None,
        *,
        pending: int = 2,
        ahead: int = 2,
        timeout: float = 300.0,
    ):
        """
        Args:
          budget: the most bytes that the slots may take together; None is no limit.
          pending: how many states may be on their way out, at least 1.
          ahead: how many states may be on their way in, at least 1.
          timeout: seconds that one move may take before it counts as failed.
        """
        super().__init__(budget)
        self.pending, self.ahead, self.timeout = pending, ahead, timeout
        self._starts: list[int] = []
        self._regions = Regions(0, 0)
        self._contents: dict[int, _Content] = {}
        self._outgoing: collections.deque[Future] = collections.deque()
        self._incoming: set[int] = set()  # slots whose content has `fetched`
        self._moving: dict[str, tuple[int, float]] = {}  # slots that move now, and since when
        self._failures: collections.deque[Exception] = collections.deque()
        self._writer = ThreadPoolExecutor(1, f"metagrad-{self.name}-write")
        self._reader = ThreadPoolExecutor(1, f"metagrad-{self.name}-read")
        self._threads = self._writer, self._reader

    def stored_bytes(self, sizes: Sequence[int]) -> int:
        """Bytes of a slot: the arrays lie one behind the other, each aligned for JAX."""
        return offsets(sizes)[-1]

    def reserve(self) -> None:
        """Takes the memory or the file for `self.slots` slots of `self.slot_bytes` bytes."""
        raise NotImplementedError

    def store(self, slot: int, parts: list[tuple[int, np.ndarray]]) -> None:
        """Copies bytes into a slot. It runs in the thread of the writes.

        Args:
          slot: the number of the slot.
          parts: bytes, each with its offset in the slot, in the order of the offsets.

        Raises:
          SlotError: that was not possible.
        """
        raise NotImplementedError

    def fetch(self, slot: int, memory: np.ndarray) -> None:
        """Copies the bytes of a slot into `memory`. It runs in the thread of the reads.

        Raises:
          SlotError: that was not possible.
        """
        raise NotImplementedError

    def release(self) -> None:
        """Gives back what `reserve` took, if it took something. No move is running."""
        raise NotImplementedError

    def explain_timeout(self, slot: int, verb: str) -> str:
        """What to say of a move that took longer than `timeout`, and what to do."""
        return f"slot {slot} of the {self.name} tier was not {verb} within {self.timeout:g} s"

    @property
    def transit_bytes(self) -> int:
        """The most bytes that states on their way take in memory, beside the slots themselves.

        The state that was read last is one of them.
        """
        return (self.pending + self.ahead + 1) * self.slot_bytes

    def allocate(self, slots: int, avals: Sequence[Any]) -> None:
        """See `Tier.allocate`."""
        self._forget()
        for thread in self._threads:
            thread.submit(int).result()  # All that was before it has ended.
        self._failures.clear()
        self.release()
        self._starts = offsets(map(nbytes, avals))
        self._allocate(slots, avals)
        self._regions = Regions(self.slot_bytes, self.ahead + 1)
        try:
            self.reserve()
        except BaseException:
            self.slots = 0
            raise

    def write(self, slot: int, arrays: Sequence[Any]) -> None:
        """See `Tier.write`."""
        self._raise_failure()
        self._check_arrays(slot, arrays)
        self._drop(slot)
        self._wait_for_writes(self.pending - 1)
        content = _Content(list(arrays))
        content.written = self._writer.submit(self._store, slot, content)
        self._contents[slot] = content
        self._outgoing.append(content.written)

    def prefetch(self, slot: int) -> None:
        """See `Tier.prefetch`."""
        self._raise_failure()
        content = self._content(slot)
        if not content.fetched and content.arrays is None and len(self._incoming) < self.ahead:
            content.fetched = self._reader.submit(self._fetch, slot, content)
            self._incoming.add(slot)

    def read(self, slot: int) -> list[Any]:
        """See `Tier.read`. A state that is still on its way out comes back at once."""
        self._raise_failure()
        content = self._content(slot)
        arrays = content.arrays
        if arrays is not None:
            return list(arrays)
        fetched = content.fetched or self._reader.submit(self._fetch, slot, content)
        content.fetched = None
        self._incoming.discard(slot)
        self._wait(fetched, "read")
        return fetched.result()

    def free(self, slot: int) -> None:
        """See `Tier.free`. A write that has not begun is left out."""
        self._raise_failure()
        self._check_slot(slot)
        self._drop(slot)

    def flush(self) -> None:
        """See `Tier.flush`."""
        self._wait_for_writes(0)

    def close(self) -> None:
        """See `Tier.close`. It waits for the move that is running; those after it are left out."""
        self._forget()
        for thread in self._threads:
            thread.shutdown()
        self._failures.clear()
        self.release()
        super().close()

    @property
    def bytes_in_use(self) -> int:
        """See `Tier.bytes_in_use`."""
        return len(self._contents) * self.slot_bytes

    def _store(self, slot: int, content: _Content) -> None:
        """The write of a slot, in its thread."""
        try:
            placements, parts = [], []
            for start, array in zip(self._starts, content.arrays or ()):
                placement, pieces = take_apart(array)
                placements.append(placement)
                for piece in pieces:
                    parts.append((start, piece))
                    start += len(piece)
            with self._timed(slot, "written"):
                self.store(slot, parts)
            self.traffic.bytes_written += self.slot_bytes
            content.placements = placements
        except Exception as error:
            if not isinstance(error, SlotError):
                error.add_note(
                    "The error is that of the arrays that were written to "
                    f"slot {slot} of the {self.name} tier."
                )
            self._failures.append(error)
            raise
        finally:
            content.arrays = None

    def _fetch(self, slot: int, content: _Content) -> list[Any]:
        """The read of a slot, in its thread."""
        assert content.written is not None
        content.written.result()  # It has ended, perhaps with an error.
        assert content.placements is not None
        memory = self._regions.take()
        with self._timed(slot, "read"):
            self.fetch(slot, memory)
        self.traffic.bytes_read += self.slot_bytes
        return put_together(content.placements, cut(content.placements, memory, self._starts))

    def _content(self, slot: int) -> _Content:
        content = self._contents.get(slot)
        if content is None:
            raise self._nothing_in(slot)
        return content

    def _drop(self, slot: int) -> None:
        """Forgets what is in a slot, and leaves out what has not begun to move."""
        content = self._contents.pop(slot, None)
        self._incoming.discard(slot)
        if content is None:
            return
        if content.fetched:
            content.fetched.cancel()
        if content.written and content.written.cancel():
            content.arrays = None

    def _forget(self) -> None:
        """Empties all slots. Moves that are running go on."""
        for slot in list(self._contents):
            self._drop(slot)
        self._outgoing.clear()
        self._regions.close()

    def _wait_for_writes(self, most: int) -> None:
        """Waits until at most so many states are on their way out."""
        while len(self._outgoing) > most:
            self._wait(self._outgoing[0], "written")
            self._outgoing.popleft()
        self._raise_failure()

    def _wait(self, move: Future, verb: str) -> None:
        """Waits until a move has ended, with or without an error.

        The computation of what is to be written may take any time; a move alone may not.
        """
        start = time.perf_counter()
        try:
            while not move.done():
                slot, begun = self._moving.get(verb, (-1, time.perf_counter()))
                left = begun + self.timeout - time.perf_counter()
                if left <= 0:
                    raise SlotError(errno.ETIMEDOUT, self.explain_timeout(slot, verb))
                concurrent.futures.wait([move], left)
        finally:
            self.traffic.seconds_waited += time.perf_counter() - start

    @contextlib.contextmanager
    def _timed(self, slot: int, verb: str) -> Iterator[None]:
        """Around the move of a slot, in its thread."""
        self._moving[verb] = slot, time.perf_counter()
        try:
            yield
        finally:
            del self._moving[verb]

    def _raise_failure(self) -> None:
        if self._failures:
            raise self._failures.popleft()
