"""Reports of how far a run is.

An executor reports here, in the lowest of the folders; python/api/run_progress.py shows it.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Literal

from metagrad.runtime.pace import VJP_IN_STEPS, Pace

Phase = Literal["training", "outer", "reversing"]

INTERVAL = 0.1
"""Seconds between two calls of a user's function, at least."""


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a metagradient is.

    Attributes:
      phase: "training" (the first sweep), "outer" (the outer function and its VJP) or "reversing"
        (the second sweep, which runs steps again and takes their VJPs).
      advanced: training steps that have been run, those that ran again among them.
      advances: how many there are to run in all.
      reversed: VJPs of steps that have been taken.
      vjps: how many there are to take in all: T.
      elapsed: seconds since the run began, or went on from where it was interrupted.
      remaining: seconds that the rest will take, from the pace until now, or as predicted; None if
        nothing is known yet.
      fraction: the part of the work that is done, from 0 to 1.
      bytes: bytes in use, by tier: {"device": ..., "host": ..., "disk": ...}.
    """

    phase: Phase
    advanced: int
    advances: int
    reversed: int
    vjps: int
    elapsed: float
    remaining: float | None
    fraction: float
    bytes: Mapping[str, int]


class Reporter:
    """Takes the reports of one run.

    Args:
      advances, vjps: how many steps the run will run and how many VJPs it will take in all.
      advanced, reversed: how many of them an earlier process has done.
      predicted: seconds per step and per VJP, where they are known.
      callback: is called with a `Progress`, in the thread that reports: when a phase begins, at the
        end, and in between at most every INTERVAL seconds. What it raises goes to the executor.
    """

    def __init__(
        self,
        advances: int,
        vjps: int,
        *,
        advanced: int = 0,
        reversed: int = 0,
        predicted: tuple[float, float] | None = None,
        callback: Callable[[Progress], object] | None = None,
    ):
        self._advances, self._vjps = advances, vjps
        self._pace = Pace(predicted)
        self._callback = callback
        self._called = -INTERVAL
        self._began = now = time.monotonic()
        self._bytes: Mapping[str, int] = {}
        self._ratio = predicted[1] / predicted[0] if predicted else VJP_IN_STEPS
        # One tuple, so that the thread that displays it never sees half of a report.
        phase: Phase = "reversing" if reversed else "training"
        self._latest: tuple[Phase, int, int, float] = (phase, advanced, reversed, now)

    def update(
        self, phase: Phase, advanced: int, reversed: int, bytes: Mapping[str, int] | None = None
    ) -> None:
        """Reports how far the run is. It takes a few microseconds.

        Args:
          phase: what the run does now.
          advanced, reversed: how many steps have been run and how many VJPs taken, from the start.
          bytes: bytes in use by tier; None if that has not changed.
        """
        now = time.monotonic()
        before, advanced_before, reversed_before, then = self._latest
        self._pace.add(now - then, advanced - advanced_before, reversed - reversed_before)
        self._latest = phase, advanced, reversed, now
        if bytes is not None:
            self._bytes = bytes
        if self._callback is not None and (
            now - self._called >= INTERVAL
            or phase != before
            or (advanced >= self._advances and reversed >= self._vjps)
        ):
            self._called = now
            self._callback(self.progress())

    def progress(self) -> Progress:
        """How far the run is now. Any thread may ask."""
        phase, advanced, reversed, then = self._latest
        now = time.monotonic()
        pace = self._pace.estimate()
        remaining = None
        if pace is not None:
            rest = (self._advances - advanced) * pace[0] + (self._vjps - reversed) * pace[1]
            remaining = max(rest - (now - then), 0.0)
        done = advanced + self._ratio * reversed
        return Progress(
            phase,
            advanced,
            self._advances,
            reversed,
            self._vjps,
            now - self._began,
            remaining,
            min(done / (self._advances + self._ratio * self._vjps), 1.0),
            dict(self._bytes),
        )
