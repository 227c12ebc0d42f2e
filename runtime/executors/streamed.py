"""The streamed executor: the host walks a plan over segments, and brings the batches of each.

What is on the device at a time is a state or two, the batches of some segments, and what the
kernels need. States that are gone back to are in slots, which lie in tiers: on the device, in the
host's memory or on disk.

The host runs ahead of the device by `AHEAD` actions and no further, so that the memory of what is
under way is bounded. Everything that waits for the device (checksums, what is handed to the user,
points to resume from) waits for the actions before these.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Sequence
from typing import Protocol

import jax

from metagrad.runtime.executors.kernels import Arrays, Kernels
from metagrad.runtime.executors.replay_check import ReplayCheck
from metagrad.runtime.executors.walk import Action, Kind, bounds

AHEAD = 2
"""Actions that are under way on the device while the host prepares the next."""


class Slots(Protocol):
    """Where states are kept: `tiers.placed_slots.PlacedSlots`, say."""

    def write(self, slot: int, arrays: Arrays) -> None: ...
    def read(self, slot: int) -> Arrays: ...
    def prefetch(self, slot: int) -> None: ...
    def free(self, slot: int) -> None: ...


class Feed(Protocol):
    """The batches of segments, in the order in which the walk needs them."""

    def take(self) -> Sequence: ...


class Collector(Protocol):
    """Where rows that belong to steps go: gradients of batches, the step's aux."""

    def write(self, first: int, count: int, leaves: Sequence) -> None: ...


@dataclasses.dataclass(frozen=True)
class Arguments:
    """The arguments of a run, as flat lists.

    Attributes:
      state0, meta, outer: those of the metagradient.
      captured: the arrays that its functions capture.
    """

    state0: Arrays
    meta: Arrays
    outer: Arrays
    captured: Arrays


@dataclasses.dataclass(frozen=True)
class Standing:
    """How far a run has come: all that the actions ahead depend on, beside the slots.

    Attributes:
      position: the number of actions that are done.
      state: the changed leaves of the state where the run stands; none after a VJP.
      value: the outer function's value and what is auxiliary; none before the end of training.
      final: the changed leaves of the last state; none before the end of training.
      state_bar, meta_bar: cotangents; those of the state are none before the end of training.
    """

    position: int
    state: Arrays
    value: Arrays
    final: Arrays
    state_bar: Arrays
    meta_bar: Arrays

    @classmethod
    def at_the_start(cls, kernels: Kernels, state0: Arrays) -> Standing:
        changed = [state0[i] for i in kernels.layout.changed]
        return cls(0, changed, [], [], [], list(kernels.meta_bar_zeros))


class StreamedRun:
    """One run of a walk.

    Args:
      kernels: the programs.
      steps: T.
      walk: the actions (`walk.actions`).
      arguments: what the run is of.
      standing: where it begins: at the start, or at a point that was saved.
      feed: the batches of each ADVANCE and REVERSE that is ahead, in order.
      slots: where states are kept.
      aux, batch_bar: where the step's aux and the gradients of batches go; None if there are none.
      check: compares the checksums of replayed states with those of the first pass; None if the
        kernels make none.
      on_start: called with the standing when an action has been started; what it returns is called
        when the action is done on the device, and all before it.
    """

    def __init__(
        self,
        kernels: Kernels,
        steps: int,
        walk: Sequence[Action],
        arguments: Arguments,
        standing: Standing,
        *,
        feed: Feed,
        slots: Slots,
        aux: Collector | None,
        batch_bar: Collector | None,
        check: ReplayCheck | None,
        on_start: Callable[[Standing], Callable[[], None]],
    ):
        self.kernels, self.steps, self.walk = kernels, steps, walk
        self.arguments, self.standing = arguments, standing
        self.feed, self.slots, self.aux, self.batch_bar = feed, slots, aux, batch_bar
        self.check, self.on_start = check, on_start

    def run(self) -> Standing:
        """Does the actions that are left.

        Raises:
          ReplayError: a replay computed another state.
          Any other: what the feed, the slots, a collector or `on_start` raise.
        """
        start = {
            Kind.LOAD: self._load,
            Kind.ADVANCE: self._advance,
            Kind.SAVE: self._save,
            Kind.OUTER: self._outer,
            Kind.REVERSE: self._reverse,
        }
        under_way: collections.deque[Callable[[], None]] = collections.deque()
        while self.standing.position < len(self.walk):
            action = self.walk[self.standing.position]
            self._prefetch()
            finish, changes = start[action.kind](action)
            self.standing = dataclasses.replace(
                self.standing, position=self.standing.position + 1, **changes
            )
            under_way.append(_both(finish, self.on_start(self.standing)))
            while len(under_way) > AHEAD:
                under_way.popleft()()
        while under_way:
            under_way.popleft()()
        return self.standing

    def _prefetch(self) -> None:
        """Asks for the next slot that is loaded, if nothing is written to it before."""
        position = self.standing.position
        for action in self.walk[position : position + 1 + AHEAD]:
            if action.kind is Kind.SAVE:
                return
            if action.kind is Kind.LOAD:
                self.slots.prefetch(action.slot)
                return

    # The actions. Each starts its work on the device. It returns what is to be done when that is
    # over, and what changes in the standing.

    def _load(self, action: Action):
        state = self.slots.read(action.slot)
        if action.is_last_read:
            self.slots.free(action.slot)
        return _nothing, {"state": state}

    def _save(self, action: Action):
        self.slots.write(action.slot, self.standing.state)
        return _nothing, {}

    def _advance(self, action: Action):
        first, count = bounds(action.segment, self.kernels.steps, self.steps)
        state, aux, checksums = self.kernels.run_advance(
            self._whole_state(),
            self.arguments.meta,
            list(self.feed.take()),
            self.arguments.captured,
            count,
        )

        def finish() -> None:
            jax.block_until_ready(state)
            if self.check is not None:
                self.check.at_end(action.segment, checksums)
            if self.aux is not None and not action.is_replay:
                self.aux.write(first, count, aux)

        return finish, {"state": state}

    def _outer(self, _: Action):
        value, state_bar = self.kernels.run_outer_vjp(
            self._whole_state(), self.arguments.outer, self.arguments.captured
        )
        finish = lambda: jax.block_until_ready(value)
        return finish, {"value": value, "state_bar": state_bar, "final": self.standing.state}

    def _reverse(self, action: Action):
        first, count = bounds(action.segment, self.kernels.steps, self.steps)
        state_bar, meta_bar, batch_bar, checksums = self.kernels.run_reverse(
            self._whole_state(),
            self.arguments.meta,
            list(self.feed.take()),
            self.arguments.captured,
            count,
            self.standing.state_bar,
            self.standing.meta_bar,
        )

        def finish() -> None:
            jax.block_until_ready((state_bar, meta_bar, batch_bar))
            if self.check is not None:
                self.check.at_end(action.segment, checksums)
            if self.batch_bar is not None:
                self.batch_bar.write(first, count, batch_bar)

        return finish, {"state_bar": state_bar, "meta_bar": meta_bar, "state": []}

    def _whole_state(self) -> Arrays:
        """All leaves of the state where the run stands."""
        return self.kernels.layout.whole_state(self.arguments.state0, self.standing.state)


def _nothing() -> None:
    pass


def _both(first: Callable[[], object], second: Callable[[], object]) -> Callable[[], None]:
    def call() -> None:
        first()
        second()

    return call
