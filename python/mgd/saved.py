"""The directory of a descent: its last position, from which another process goes on."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metagrad.frontend.dtypes import is_key
from metagrad.mgd.history import Record
from metagrad.mgd.results import Best
from metagrad.mgd.rounds import Position
from metagrad.runtime.journal import Journal, JournalError


class Saved:
    """Saves positions of a descent in a journal.

    Args:
      journal: that of this descent.
      start: the position before round 0, for the structures.
      save_every: seconds between two savings, at least.
    """

    def __init__(self, journal: Journal, start: Position, save_every: float):
        self._journal, self._start, self._save_every = journal, start, save_every
        self._last = time.monotonic()
        self._unsaved: Position | None = None

    def position(self) -> Position:
        """The last one that was saved; the start, if there is none.

        Raises:
          JournalError: a file is damaged.
        """
        point = self._journal.latest()
        if point is None:
            return self._start
        load = lambda name: self._journal.load(point.payloads[name])
        floats = _tree(load("meta"), self._start.floats)
        value, round = point.record["best"]
        return Position(
            floats,
            _tree(load("optimizer state"), self._start.optimizer_state),
            Best(value, round, _tree(load("best meta"), self._start.floats)),
            _records(*load("history")),
        )

    def report(self, position: Position) -> None:
        """A new position. It is saved, unless the last saving was a short time ago.

        Raises:
          JournalError: it cannot be written.
        """
        self._unsaved = position
        if time.monotonic() - self._last >= self._save_every:
            self.save()

    def save(self) -> None:
        """Saves what has not been. A thread writes it.

        Raises:
          JournalError: it cannot be written.
        """
        position, self._unsaved = self._unsaved, None
        if position is None or position.best is None:
            return
        best = position.best
        trees = {
            "meta": _arrays(position.floats),
            "optimizer state": _arrays(position.optimizer_state),
            "best meta": _arrays(best.meta),
            "history": _table(position.records),
        }
        refs = {name: self._journal.store(arrays) for name, arrays in trees.items()}
        record = {"best": [best.value, best.round]}
        self._journal.commit(len(position.records), record, refs)
        self._last = time.monotonic()


@contextlib.contextmanager
def opened(
    directory: str | os.PathLike,
    identity: Mapping[str, str | int],
    start: Position,
    save_every: float,
) -> Iterator[Saved]:
    """The directory of a descent, while it is used. The last position is saved at the end.

    That is so after an exception too, whose own text then comes before that of a journal which
    cannot be written.

    Raises:
      JournalError: it holds another descent, something else or damaged files, or another process
        uses it; or it cannot be written.
    """
    with Journal.open(directory, identity) as journal:
        saved = Saved(journal, start, save_every)
        try:
            yield saved
        except BaseException:
            with contextlib.suppress(JournalError):
                saved.save()
            raise
        saved.save()


def _arrays(tree: Any) -> list[Any]:
    leaves = jax.tree.leaves(tree)
    return [jax.random.key_data(leaf) if is_key(leaf) else jnp.asarray(leaf) for leaf in leaves]


def _tree(arrays: list[np.ndarray], like: Any) -> Any:
    leaves, structure = jax.tree.flatten(like)
    return jax.tree.unflatten(structure, [_leaf(a, leaf) for a, leaf in zip(arrays, leaves)])


def _leaf(array: np.ndarray, like: Any) -> Any:
    if is_key(like):
        return jax.random.wrap_key_data(jnp.asarray(array), impl=jax.random.key_impl(like))
    if array.ndim == 0 and jax.typeof(like).weak_type:
        return jnp.asarray(array.item())  # as JAX makes an array of a Python number
    placed = jnp.asarray(array)
    sharding = getattr(like, "sharding", None)
    return (
        placed
        if sharding is None or sharding == placed.sharding
        else jax.device_put(placed, sharding)
    )


def _table(records: tuple[Record, ...]) -> list[np.ndarray]:
    """float64 [rounds, 4] and [rounds, seeds]: all but the rounds' numbers, which count."""
    rows = [(row.value, row.gradient_norm, row.step_norm, row.seconds) for row in records]
    return [np.array(rows, np.float64), np.array([row.values for row in records], np.float64)]


def _records(rows: np.ndarray, values: np.ndarray) -> tuple[Record, ...]:
    return tuple(
        Record(round, value, gradient_norm, step_norm, seconds, tuple(each))
        for round, ((value, gradient_norm, step_norm, seconds), each) in enumerate(
            zip(rows.tolist(), values.tolist())
        )
    )
