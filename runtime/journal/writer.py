"""A thread that does the journal's work on the disk, one task after the other."""

from __future__ import annotations

import collections
import threading
import time
import warnings
from collections.abc import Callable

PATIENCE = 1.0
"""Seconds that a run waits for a slow disk, all waits together, before a warning says so."""


class Abandoned(Exception):
    """The task is not to go on."""


class Writer:
    """Runs tasks in the order in which they came.

    After a task that failed none is run, so nothing can become durable out of order.

    Args:
      limit: bytes that may wait to be written; `submit` waits while there are more.
      slow: the text of the warning for a disk that the run waits for.
    """

    def __init__(self, limit: int, slow: str):
        self._limit, self._slow = limit, slow
        self._tasks: collections.deque[tuple[Callable[[], None], int]] = collections.deque()
        self._changed = threading.Condition()
        self._bytes = 0
        self._busy = False
        self._over = self._abandoned = False
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None
        self._waited = 0.0

    @property
    def error(self) -> BaseException | None:
        """What the first task that failed raised."""
        return self._error

    @property
    def pending(self) -> int:
        """Bytes that wait to be written."""
        return self._bytes

    def submit(self, task: Callable[[], None], size: int = 0) -> None:
        """Adds a task that holds `size` bytes; waits for room first."""
        if self._bytes and self._bytes + size > self._limit:
            self._wait_for_room(size)
        with self._changed:
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._work, name="metagrad-journal", daemon=True
                )
                self._thread.start()
            self._bytes += size
            self._tasks.append((task, size))
            self._changed.notify_all()

    def wait(self, until: Callable[[], bool] = lambda: False) -> None:
        """Waits until all tasks are done, one has failed, or `until` holds."""
        with self._changed:
            self._changed.wait_for(lambda: until() or self._is_idle())

    def proceed(self) -> None:
        """For a task to call now and then.

        Raises:
          Abandoned: it is to stop.
        """
        if self._abandoned:
            raise Abandoned

    def close(self) -> None:
        """Ends the thread, when all tasks are done.

        An exception meanwhile (a second Ctrl-C) ends it at once; what is not yet durable is lost.
        """
        try:
            self.wait()
        except BaseException:
            self._abandoned = True
            raise
        finally:
            with self._changed:
                self._over = True
                self._changed.notify_all()
            if self._thread is not None:
                self._thread.join()

    def _wait_for_room(self, size: int) -> None:
        began = time.monotonic()
        self.wait(lambda: not self._bytes or self._bytes + size <= self._limit)
        before, self._waited = self._waited, self._waited + time.monotonic() - began
        if before < PATIENCE <= self._waited:
            warnings.warn(self._slow, RuntimeWarning, stacklevel=4)

    def _is_idle(self) -> bool:
        return self._error is not None or not (self._tasks or self._busy)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._tasks or self._over)
                if self._over and (not self._tasks or self._abandoned):
                    return
                task, size = self._tasks.popleft()
                self._busy = True
            try:
                if self._error is None and not self._abandoned:
                    task()
            except BaseException as error:
                self._error = error
            del task  # the arrays in it
            with self._changed:
                self._bytes -= size
                self._busy = False
                self._changed.notify_all()
