"""Checksums of batches: a stream that gives other bytes for the same t is caught.

The checksum is XXH3 of 64 bits (https://xxhash.com), one for each leaf of each batch: it is faster
than the copy that it stands beside (docs/streams.md has the figures), and xxhash lets other threads
run meanwhile. It finds accidents, not attacks.
"""

from __future__ import annotations

import numpy as np
import xxhash

from metagrad.runtime.streams.layout import BatchLayout


class Checksums:
    """The checksums of one run's batches: each is noted when a batch is first seen.

    They are of the bytes that the program takes, so after the conversion to JAX's dtypes. One
    object serves the whole run, both sweeps; and a run that is resumed, through `table`.
    """

    def __init__(self, layout: BatchLayout, steps: int, table: np.ndarray | None = None):
        """For a run of `steps` batches.

        Args:
          layout: of the batches.
          steps: T.
          table: the `table` of an earlier run over what must be the same data.

        Raises:
          ValueError: the table is one of another number of batches or leaves.
        """
        self._paths = [leaf.path for leaf in layout.leaves]
        shape = (steps, len(self._paths))
        if table is None:
            table = np.zeros(shape, np.uint64)
        elif table.shape != shape or table.dtype != np.uint64:
            raise ValueError(
                f"the checksums are {table.dtype}{list(table.shape)}, of other batches than these: "
                f"{shape[0]} steps of {shape[1]} arrays"
            )
        self._table = np.array(table)

    @property
    def table(self) -> np.ndarray:
        """uint64 [T, leaves]: what is to be kept for a resume. 0 where a batch was not seen yet."""
        return self._table.copy()

    def check(self, first: int, count: int, leaves: list[np.ndarray]) -> None:
        """Notes the checksums of `count` batches, or compares them with what was noted.

        Batches may be checked by several threads, the same one by one thread at a time.

        Args:
          first: t of the first one.
          count: how many; rows of `leaves` behind these do not matter.
          leaves: C-contiguous arrays [at least count, ...], one for each leaf.

        Raises:
          RuntimeError: a batch differs from what it was; the message names t and the leaf.
        """
        noted = self._table[first : first + count]
        for position, leaf in enumerate(leaves):
            sums = _row_checksums(leaf[:count])
            before = noted[:, position].tolist()
            if sums == before:
                continue
            for t, (one, other) in enumerate(zip(before, sums), first):
                if one not in (0, other):
                    raise RuntimeError(_message(self._paths[position], t))
            noted[:, position] = np.array(sums, np.uint64)


def _row_checksums(leaf: np.ndarray) -> list[int]:
    """One for each row, none of them 0."""
    if leaf.size == 0:
        return [1] * len(leaf)
    rows = leaf.reshape(len(leaf), -1).view(np.uint8)
    digest = xxhash.xxh3_64_intdigest
    return [digest(row) or 1 for row in rows]


def _message(path: str, t: int) -> str:
    return (
        f"{path} of batch {t} is not what the stream gave for it before. A replay needs the same "
        "bytes each time. Usual causes: an augmentation whose random numbers do not depend on the "
        "row alone (seed it with the row's number), data that was written to during the run or "
        "before it was resumed, and workers=... above 1 with a source that threads cannot share."
    )
