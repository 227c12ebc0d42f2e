"""The streamed executor: the host walks a plan over segments, and brings the batches of each.

What is on the device at a time is a state or two, the batches of some segments, and what the
kernels need. States that are gone back to are in slots, which lie in tiers: on the device, in the
host's memory or on disk.

The host runs ahead of the device by `AHEAD` actions and no further, so that the memory of what is
under way is bounded. Everything that waits for the device (checksums, what is handed to the user)
waits for the actions before these.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Sequence
from typing import Protocol

import jax

from metagrad.runtime.executors.checksums import ReplayCheck
from metagrad.runtime.executors.kernels import Arrays, Kernels
from metagrad.runtime.executors.walk import Action, Kind

AHEAD = 2
"""Actions that are under way on the device while the host prepares the next."""


class Slots(Protocol):
    """Where states are kept."""

    def write(self, slot: int, arrays: Arrays) -> None: ...
    def read(self, slot: int) -> Arrays: ...
    def prefetch(self, slot: int) -> None: ...
    def free(self, slot: int) -> None: ...


class Feed(Protocol):
    """Batches of segments, in the order in which the walk needs them."""

    def take(self) -> Sequence: ...


class Collector(Protocol):
    """Where rows that belong to steps go: gradients of batches, the step's aux."""

    def write(self, first: int, count: int, leaves: Sequence) -> None: ...


@dataclasses.dataclass
class Standing:
    """How far a run has come: all that the actions ahead depend on, beside the slots.

    Attributes:
      position: the number of actions that are done.
      state: the changed leaves of the state where the run stands.
      value: the outer function's value and what is auxiliary.
      final: the changed leaves of the last state.
      state_bar, meta_bar: cotangents.
    """

    position: int
    state: Arrays
    value: Arrays
    final: Arrays
    state_bar: Arrays
    meta_bar: Arrays


class StreamedRun:
    """One run of a walk.

    Args:
      kernels: the programs.
      steps: T.
      walk: the actions (`walk.actions`).
      state0, meta, outer, captured: the arguments, flat.
      feed: the batches of each ADVANCE and REVERSE of the walk, in order.
      slots: where states are kept.
      aux, batch_bar: where the step's aux and the gradients of batches go.
      check: compares the checksums of replayed states with those of the first pass; None if the
        kernels make none.
      done: called with the position when an action is done on the device.
    """

    def __init__(
        self,
        kernels: Kernels,
        steps: int,
        walk: Sequence[Action],
        *,
        state0: Arrays,
        meta: Arrays,
        outer: Arrays,
        captured: Arrays,
        feed: Feed,
        slots: Slots,
        aux: Collector | None,
        batch_bar: Collector | None,
        check: ReplayCheck | None,
        done: Callable[[int], None],
    ):
        self.kernels, self.steps, self.walk = kernels, steps, walk
        self.state0, self.meta, self.outer, self.captured = state0, meta, outer, captured
        self.feed, self.slots, self.aux, self.batch_bar = feed, slots, aux, batch_bar
        self.check, self.done = check, done
        changed = [state0[i] for i in kernels.layout.changed]
        self.standing = Standing(0, changed, [], [], [], list(kernels.meta_bar_zeros))
        self._under_way: collections.deque[Callable[[], None]] = collections.deque()

    def run(self) -> Standing:
        """Does the actions that are left."""
        do = {
            Kind.LOAD: self._load,
            Kind.ADVANCE: self._advance,
            Kind.SAVE: self._save,
            Kind.OUTER: self._outer,
            Kind.REVERSE: self._reverse,
        }
        while self.standing.position < len(self.walk):
            action = self.walk[self.standing.position]
            self._prefetch()
            finish = do[action.kind](action)
            self.standing.position += 1
            self._under_way.append(self._finished(self.standing.position, finish))
            while len(self._under_way) > AHEAD:
                self._under_way.popleft()()
        while self._under_way:
            self._under_way.popleft()()
        return self.standing

    def _finished(self, position: int, finish: Callable[[], None]) -> Callable[[], None]:
        def wait() -> None:
            finish()
            self.done(position)

        return wait

    def _prefetch(self) -> None:
        """Asks for the next slot that is loaded, if nothing is written to it before."""
        for action in self.walk[self.standing.position : self.standing.position + 1 + AHEAD]:
            if action.kind is Kind.SAVE:
                return
            if action.kind is Kind.LOAD:
                self.slots.prefetch(action.slot)
                return

    # The actions. Each starts its work on the device and returns what is to be done when that is
    # over.

    def _load(self, action: Action) -> Callable[[], None]:
        self.standing.state = self.slots.read(action.slot)
        if action.is_last_read:
            self.slots.free(action.slot)
        return lambda: None

    def _save(self, action: Action) -> Callable[[], None]:
        self.slots.write(action.slot, self.standing.state)
        return lambda: None

    def _advance(self, action: Action) -> Callable[[], None]:
        first, count = self.bounds(action.segment)
        state, aux, checksums = self.kernels.run_advance(
            self._whole_state(), self.meta, list(self.feed.take()), self.captured, count
        )
        self.standing.state = state

        def finish() -> None:
            jax.block_until_ready(state)
            if self.check is not None:
                self.check.at_end(action.segment, checksums)
            if self.aux is not None and not action.is_replay:
                self.aux.write(first, count, aux)

        return finish

    def _outer(self, _: Action) -> Callable[[], None]:
        standing = self.standing
        value, state_bar = self.kernels.run_outer_vjp(
            self._whole_state(), self.outer, self.captured
        )
        standing.value, standing.state_bar, standing.final = value, state_bar, standing.state
        return lambda: jax.block_until_ready(value)

    def _reverse(self, action: Action) -> Callable[[], None]:
        first, count = self.bounds(action.segment)
        standing = self.standing
        state_bar, meta_bar, batch_bar, checksums = self.kernels.run_reverse(
            self._whole_state(),
            self.meta,
            list(self.feed.take()),
            self.captured,
            count,
            standing.state_bar,
            standing.meta_bar,
        )
        standing.state_bar, standing.meta_bar, standing.state = state_bar, meta_bar, []

        def finish() -> None:
            jax.block_until_ready((state_bar, meta_bar, batch_bar))
            if self.check is not None:
                self.check.at_end(action.segment, checksums)
            if self.batch_bar is not None:
                self.batch_bar.write(first, count, batch_bar)

        return finish

    def bounds(self, segment: int) -> tuple[int, int]:
        """The first step of a segment, and how many it has."""
        return bounds(segment, self.kernels.steps, self.steps)

    def _whole_state(self) -> Arrays:
        """All leaves of the state where the run stands."""
        return whole_state(self.state0, self.kernels.layout.changed, self.standing.state)


def bounds(segment: int, length: int, steps: int) -> tuple[int, int]:
    """The first step of a segment of a run in segments of `length`, and how many steps it has."""
    first = segment * length
    return first, min(length, steps - first)


def whole_state(state0: Arrays, changed: Sequence[int], leaves: Arrays) -> Arrays:
    """All leaves of a state of which the changed ones are given."""
    state = list(state0)
    for i, leaf in zip(changed, leaves, strict=True):
        state[i] = leaf
    return state
