"""Who says when a streamed run saves a point: the process itself, or the first one of several.

Each process of several has a journal of its own, with the two latest points. All save the same
points, and none begins another one before all have the last one on their disks. So whenever they
are killed, there is a point that all of them have; or there is none in some, and they begin anew.
"""

from __future__ import annotations

from typing import Protocol

import jax

from metagrad.runtime.processes import Processes


class Turns(Protocol):
    """Says after each action whether a point is saved."""

    def saves(self, is_ready: bool, is_durable: bool) -> bool:
        """Whether to save one now.

        Args:
          is_ready: whether this process would.
          is_durable: whether all points that it has begun are on its disk.
        """


class OwnTurns:
    """A process alone."""

    def saves(self, is_ready: bool, is_durable: bool) -> bool:
        return is_ready


class CommonTurns:
    """Several processes: the first one decides, and the others do as it says."""

    def __init__(self, processes: Processes):
        self._processes, self._topic = processes, processes.topic()
        self._actions = self._points = self._reported = 0

    def saves(self, is_ready: bool, is_durable: bool) -> bool:
        if is_durable and self._reported < self._points:
            self._reported = self._points
            self._topic.say(f"durable {self._points}/{jax.process_index()}", "")
        if self._processes.is_first:
            decision = is_ready and self._all_are_durable()
            self._topic.say(f"action {self._actions}", "save" if decision else "go on")
        else:
            decision = self._topic.hear(f"action {self._actions}") == "save"
        self._actions += 1
        self._points += decision
        return decision

    def _all_are_durable(self) -> bool:
        if not self._points:
            return True
        return self._topic.count(f"durable {self._points}") == len(self._processes.indices)
