"""`metagrad.Stream`: batches that are read from the host while the run goes on."""

from __future__ import annotations

import contextlib
import operator
import os
import threading
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Sharding

from metagrad.runtime.host_arrays import empty_for_xla
from metagrad.runtime.schedules.arguments import integer
from metagrad.runtime.streams import batch_shards
from metagrad.runtime.streams.batch_shards import BatchShards, Rows
from metagrad.runtime.streams.gradients import GradientSink, gradient_sink
from metagrad.runtime.streams.layout import BatchLayout
from metagrad.runtime.streams.memmaps import with_bytes, without_bytes
from metagrad.runtime.streams.sources import Source, open_source


class Stream:
    """Batches that need not fit the device, nor memory: they are read when the run needs them.

    It stands in the place of stacked batches: `mg(state0, meta, stream)`. Batch t is `source[t]`,
    or the rows `order[t]` of the source:

    >>> import numpy as np, metagrad
    >>> x, y = np.arange(12.0).reshape(6, 2), np.arange(6)  # 6 examples; memmaps, say
    >>> stream = metagrad.Stream((x, y), order=[[0, 1], [2, 5], [4, 4]])
    >>> len(stream)
    3
    >>> stream.aval
    (ShapeDtypeStruct(shape=(2, 2), dtype=float32), ShapeDtypeStruct(shape=(2,), dtype=int32))
    >>> stream[1][1]
    array([2, 5], dtype=int32)

    A replay asks for a batch again, so the same t must give the same bytes each time. A run notes
    a checksum of each batch and stops with an error if one differs.

    The source is read in background threads: in one at a time, unless `workers` says otherwise.
    Arrays have JAX's dtypes in the program, as everywhere: float64 becomes float32 unless
    `jax_enable_x64` is on.

    Args:
      source: a tuple, a dict or another pytree of arrays (NumPy's, memmaps, PyTorch's, JAX's, or
        what has `shape`, `dtype` and an index), whose leading axis counts the rows; or a list or
        any object with `len(source)` and `source[i]`, such as a map-style dataset of PyTorch,
        grain or Hugging Face. In the batches and rows of the latter a list of numbers is an array.
        A pytree of `jax.ShapeDtypeStruct`s is enough to lower a run for, and cannot be read.
      order: integers [T] or [T, B], from 0 to the number of rows - 1. Batch t is then made of the
        rows order[t]. Without it, batch t is entry t.
      workers: how many threads read at the same time. More than one only for a source that threads
        may share.
      gradients: where the gradients of batches go, with `wrt` of "batches". None: arrays
        [T, ...] in memory. A folder: one file .npy of [T, ...] for each floating-point leaf, which
        `Result.grad` maps; the folder must be new, empty, or that of a run which was cut off.
        A function: called as gradients(t, gradient), gradient a pytree of NumPy arrays like batch
        t, for t from T - 1 down to 0; `Result.grad` is then None.
      sharding: how ONE batch lies on several devices, without the axis of steps: a
        `jax.sharding.NamedSharding` for every leaf, or a pytree of them that is a prefix of a
        batch. Where the devices belong to several processes, each reads the rows that its own
        devices hold. None: each device has the whole batch.

    Raises:
      TypeError: the source cannot be asked for a batch again (an iterator, a loader, an iterable
        dataset), has no length, or holds what is not a number; an argument has the wrong type.
      ValueError: the source or the order is empty; an index of the order is negative or too
        large; arrays have different numbers of rows.
    """

    def __init__(
        self,
        source: Any,
        order: Any = None,
        *,
        workers: int = 1,
        gradients: str | os.PathLike | Callable[[int, Any], None] | None = None,
        sharding: Any = None,
    ):
        self._given = source, order
        self.workers = integer("Stream(workers=...)", workers, 1)
        self._gradients = _check_gradients(gradients)
        if sharding is not None:
            batch_shards.check_sharding(sharding)
        self._sharding = sharding
        self._source: Source = open_source(source, order, sharding)
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """T, the number of batches: that of the training steps."""
        return self._source.steps

    @property
    def order(self) -> np.ndarray | None:
        """The rows of each batch, integers [T] or [T, B]; None if there is no order."""
        order = self._given[1]
        return None if order is None else np.asarray(order)

    @property
    def aval(self) -> Any:
        """Shapes and dtypes of one batch, as a pytree of `jax.ShapeDtypeStruct`s.

        They are those under the present x64 setting, and have the shardings that were given. A
        dataset is asked for one row of batch 0, once.
        """
        layout = self.layout()
        if self._sharding is None:
            return layout.aval
        avals = [
            jax.ShapeDtypeStruct(leaf.aval.shape, leaf.aval.dtype, sharding=sharding)
            for leaf, sharding in zip(layout.leaves, self._shardings(layout))
        ]
        return jax.tree.unflatten(layout.structure, avals)

    @property
    def sharding(self) -> Any:
        """How a batch lies on several devices, as it was given; None: it was not."""
        return self._sharding

    def shards(self, otherwise: Sharding) -> BatchShards:
        """What this process reads of a batch.

        Args:
          otherwise: the sharding of every leaf, where none was given.

        Raises:
          ValueError: a leaf cannot be sharded so.
        """
        layout = self.layout()
        if self._sharding is None:
            return BatchShards.of(layout, len(layout.leaves) * [otherwise])
        return BatchShards.of(layout, self._shardings(layout))

    def _shardings(self, layout: BatchLayout) -> list[Sharding]:
        return batch_shards.leaf_shardings(self._sharding, layout)

    def __getitem__(self, t: int) -> Any:
        """Batch t, as a pytree of NumPy arrays. TypeError if the source is of shapes."""
        t = range(len(self))[operator.index(t)]
        layout = self.layout()
        buffers = [
            empty_for_xla((1, *leaf.stored.shape), leaf.stored.dtype) for leaf in layout.leaves
        ]
        self.read(t, layout, buffers)
        return layout.unflatten([buffer[0, ...] for buffer in buffers])

    def layout(self) -> BatchLayout:
        """The structure of a batch, with paths, shapes and dtypes under the present x64 setting."""
        with self._alone():
            return self._source.layout()

    @property
    def reads_many(self) -> bool:
        """Whether many batches are read at once as fast as may be, and not one by one."""
        return self._source.reads_many

    @property
    def has_values(self) -> bool:
        """Whether batches can be read; not where the source is of shapes."""
        return self._source.shape_at is None

    def check_values(self) -> None:
        """Raises TypeError if batches cannot be read, since the source is of shapes."""
        if not self.has_values:
            raise TypeError(
                f"Stream(source): {self._source.shape_at} is a jax.ShapeDtypeStruct. A run can be "
                "lowered for shapes, and needs arrays to be called: give them, or a Stream of them."
            )

    def read(
        self,
        first: int,
        layout: BatchLayout,
        buffers: list[np.ndarray],
        rows: Sequence[Rows | None] | None = None,
    ) -> None:
        """Reads the batches first, first + 1, ... into buffers.

        Args:
          first: t of the first batch.
          layout: what `layout()` said, in the thread whose settings the program has.
          buffers: arrays [n, ...] of the layout's stored shapes and dtypes, one for each leaf.
          rows: which rows of each leaf are read, into buffers that have these alone; None: all.

        Raises:
          TypeError: the source is of shapes.
          Any other: what the source raises.
        """
        self.check_values()
        with self._alone():
            self._source.read(first, layout, buffers, rows or len(buffers) * [None])

    @property
    def gradients(self) -> str | Callable[[int, Any], None] | None:
        """Where the gradients of batches go, as it was given; a folder as an absolute path."""
        return self._gradients

    def gradient_sink(self, queries: tuple[int, ...] = ()) -> GradientSink:
        """What takes the gradients of the batches of one run, as `gradients=` says.

        Args:
          queries: (Q,) if there are Q gradients of each batch: rows are then [Q, ...].

        Raises:
          FileExistsError, OSError: see `gradient_files.GradientFiles`.
        """
        return gradient_sink(self._gradients, self.layout().with_leading(queries), len(self))

    def _alone(self) -> contextlib.AbstractContextManager:
        """Keeps other threads away from the source, unless the user allows them."""
        return self._lock if self.workers == 1 else contextlib.nullcontext()

    def __getstate__(self) -> dict[str, Any]:
        """Memmaps are pickled as the names of their files, and opened where this is loaded.

        Raises:
          TypeError: the stream has a sharding.
        """
        if self._sharding is not None:
            raise TypeError(
                "a Stream(sharding=...) cannot be pickled, since devices belong to a process: make "
                "the stream where it is used"
            )
        return {
            "given": without_bytes(self._given),
            "workers": self.workers,
            "gradients": self._gradients,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        source, order = with_bytes(state["given"])
        self.__init__(  # type: ignore[misc]
            source, order, workers=state["workers"], gradients=state["gradients"]
        )

    def __repr__(self) -> str:
        kind = type(self._given[0]).__name__
        order = "" if self._given[1] is None else ", order"
        return f"Stream({kind}{order}): {len(self):,} batches"


def _check_gradients(gradients: Any) -> Any:
    if gradients is None or callable(gradients):
        return gradients
    if isinstance(gradients, (str, os.PathLike)):
        return os.path.abspath(gradients)
    raise TypeError(
        "Stream(gradients=...) must be a folder, a function of (t, gradient), or None, got "
        f"{gradients!r:.60}"
    )
