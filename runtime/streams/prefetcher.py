"""Reads batches ahead, in background threads, while the device computes."""

from __future__ import annotations

import collections
import itertools
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from types import TracebackType
from typing import Any

import jax
import numpy as np

from metagrad.runtime import jax_internals
from metagrad.runtime.host_arrays import empty_for_xla
from metagrad.runtime.streams.batch_shards import BatchShards
from metagrad.runtime.streams.checksums import Checksums
from metagrad.runtime.streams.stream import Stream


class Prefetcher:
    """Segments of a stream's batches, in an order that is known beforehand.

    One thread puts segments together, one after the other. With `Stream(workers=n)` for n > 1 it
    divides each among n further threads. At most `depth` segments that were not taken are in
    memory, the one that is being read included.

    It is a context manager. When it is left, by an error or Ctrl-C too, its threads have ended: it
    waits for the batch that is being read, and no other.
    """

    def __init__(
        self,
        stream: Stream,
        requests: Iterable[tuple[int, int]],
        length: int,
        *,
        checksums: Checksums | None = None,
        place: Callable[[np.ndarray], Any] | None = None,
        shards: BatchShards | None = None,
        depth: int = 2,
    ):
        """Begins to read.

        Args:
          stream: what is read.
          requests: (t of the first batch, number of batches) of each segment, as they will be
            taken.
          length: L, the length of a segment; rows behind the number of batches are zeros.
          checksums: where batches are noted and compared; None to compare nothing.
          place: called with each array in the background thread, `jax.device_put` to a device say,
            under this thread's x64 setting. Nobody writes to the array afterwards.
          shards: of batches on several devices: what is read of them, and where it goes; `place` is
            not called then.
          depth: how many segments to read ahead, at least 1.

        Raises:
          ValueError: a segment is not one of the stream. (One that is requested later is refused by
            `take`.)
          TypeError, ValueError, any other: batch 0 cannot be read.
        """
        self._stream, self._length = stream, length
        # Settings of JAX belong to a thread, so they are looked up in this one.
        self._layout = stream.layout()
        self._x64 = jax_internals.setting("jax_enable_x64")
        self._checksums, self._place, self._shards = checksums, place, shards
        self._requests = itertools.starmap(self._checked, requests)
        self._stopped = threading.Event()
        self._ready: collections.deque[Future[list]] = collections.deque()
        self._assembler = ThreadPoolExecutor(1, thread_name_prefix="metagrad-stream")
        self._readers = (
            ThreadPoolExecutor(stream.workers, thread_name_prefix="metagrad-stream-reader")
            if stream.workers > 1
            else None
        )
        try:
            for _ in range(max(1, depth)):
                self._submit()
        except BaseException:
            self.close()
            raise

    def take(self) -> list:
        """The arrays [L, ...] of the next segment, flat, as `place` returned them.

        Raises:
          RuntimeError: a batch is not what it was before (`Checksums`).
          TypeError, ValueError, OverflowError: a batch does not look like batch 0.
          Any other: what the source raised, with a note that names the batch.
        """
        if self._stopped.is_set():
            raise ValueError("the prefetcher is closed")
        if not self._ready:
            raise ValueError("all segments that were requested have been taken")
        leaves = self._ready.popleft().result()
        self._submit()
        return leaves

    def close(self) -> None:
        """Ends the threads, when the batch that is being read is over. May be called twice."""
        self._stopped.set()
        self._assembler.shutdown(wait=True, cancel_futures=True)
        if self._readers is not None:
            self._readers.shutdown(wait=True, cancel_futures=True)
        self._ready.clear()

    def __enter__(self) -> Prefetcher:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _submit(self) -> None:
        request = next(self._requests, None)
        if request is not None:
            self._ready.append(self._assembler.submit(self._segment, *request))

    def _checked(self, first: int, count: int) -> tuple[int, int]:
        steps = len(self._stream)
        if not (first >= 0 and 0 < count <= self._length and first + count <= steps):
            raise ValueError(
                f"({first}, {count}) is no segment of at most {self._length} batches in {steps} "
                "batches"
            )
        return first, count

    def _segment(self, first: int, count: int) -> list:
        """Reads a segment. Runs in the assembling thread."""
        buffers = [
            empty_for_xla((self._length, *self._shape(i)), leaf.stored.dtype)
            for i, leaf in enumerate(self._layout.leaves)
        ]
        for buffer in buffers:
            buffer[count:] = 0
        self._read_all(first, count, buffers)
        if self._place is None and self._shards is None:
            return buffers
        with jax.enable_x64(self._x64):
            if self._shards is not None:
                return self._shards.place(buffers)
            assert self._place is not None
            return [self._place(buffer) for buffer in buffers]

    def _shape(self, position: int) -> tuple[int, ...]:
        """Of what is read of a leaf of one batch."""
        if self._shards is not None:
            return self._shards.read_shape(position)
        return self._layout.leaves[position].stored.shape

    def _read_all(self, first: int, count: int, buffers: list[np.ndarray]) -> None:
        if self._readers is None:
            self._read(first, count, buffers)
            return
        share = -(-count // self._stream.workers)
        parts = [
            self._readers.submit(
                self._read,
                first + start,
                min(share, count - start),
                [buffer[start : start + share] for buffer in buffers],
            )
            for start in range(0, count, share)
        ]
        wait(parts)
        for part in parts:
            part.result()  # raises the error of the earliest part

    def _read(self, first: int, count: int, buffers: list[np.ndarray]) -> None:
        """Reads and checks `count` batches into the first rows of the buffers."""
        # A dataset may use JAX, and this thread has settings of its own.
        with jax.enable_x64(self._x64):
            self._read_rows(first, count, buffers)

    def _read_rows(self, first: int, count: int, buffers: list[np.ndarray]) -> None:
        at_once = count if self._stream.reads_many else 1
        for start in range(0, count, at_once):
            if self._stopped.is_set():
                raise CancelledError
            rows = [buffer[start : start + at_once] for buffer in buffers]
            own = self._shards.rows if self._shards is not None else None
            self._stream.read(first + start, self._layout, rows, own)
            if self._checksums is not None:
                self._checksums.check(first + start, at_once, rows)
