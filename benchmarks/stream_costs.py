"""`python -m benchmarks.stream_costs`: what reading a stream's batches costs on the host.

The first table times the reading threads of a run: microseconds for each batch of 32 small
examples, checksums included, in segments of L batches, with nothing computed meanwhile. Each
figure is the best of the repeats. The second table compares checksums with the copy of a batch,
which any reading includes; a checksum that holds the interpreter's lock would also stop the thread
that drives the device.
"""

from __future__ import annotations

import argparse
import time
import zlib
from collections.abc import Callable

import numpy as np
import xxhash
from rich.console import Console
from rich.table import Table

import metagrad
from benchmarks.__main__ import positive
from metagrad.runtime.streams import Checksums, Prefetcher

EXAMPLES, BATCH, STEPS = 10_000, 32, 512
LENGTHS = (1, 8, 32)
SIZES = (2**10, 2**14, 2**20, 2**24)


class Examples:
    """A map-style dataset: it is asked for one row at a time."""

    def __init__(self, x: np.ndarray, y: np.ndarray):
        self._x, self._y = x, y

    def __len__(self) -> int:
        return len(self._y)

    def __getitem__(self, i: int) -> dict:
        return {"x": self._x[i], "y": self._y[i]}


def streams() -> dict[str, metagrad.Stream]:
    """Streams of the same batches: an image of 8 x 8 and a label, 32 times."""
    random = np.random.default_rng(0)
    x = random.normal(size=(EXAMPLES, 64)).astype(np.float32)
    y = random.integers(0, 10, EXAMPLES)
    order = random.integers(0, EXAMPLES, (STEPS, BATCH))
    stacked = {"x": x[order], "y": y[order]}
    batches = [{"x": x[rows], "y": y[rows]} for rows in order]
    return {
        "arrays, order [T, B]": metagrad.Stream({"x": x, "y": y}, order),
        "stacked batches": metagrad.Stream(stacked),
        "a list of batches": metagrad.Stream(batches),
        "a dataset, row by row": metagrad.Stream(Examples(x, y), order),
    }


def microseconds(run: Callable[[], object], repeat: int, of: int) -> float:
    """The best time of `repeat` runs, divided by `of`."""
    best = float("inf")
    for _ in range(repeat):
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
    return 1e6 * best / of


def read(stream: metagrad.Stream, length: int, checked: bool) -> None:
    """Reads all batches, as an executor would."""
    sums = Checksums(stream.layout(), STEPS) if checked else None
    requests = [(first, length) for first in range(0, STEPS, length)]
    with Prefetcher(stream, requests, length, checksums=sums) as prefetcher:
        for _ in requests:
            prefetcher.take()


def reading_times(repeat: int) -> Table:
    table = Table("source", *(f"L = {length}" for length in LENGTHS), "without checksums, L = 32")
    for name, stream in streams().items():
        times = [
            microseconds(lambda: read(stream, length, checked), repeat, STEPS)  # noqa: B023
            for length, checked in [*((length, True) for length in LENGTHS), (LENGTHS[-1], False)]
        ]
        table.add_row(name, *(f"{value:.1f}" for value in times))
    return table


def checksum_times(repeat: int) -> Table:
    table = Table("bytes", "copy (us)", "XXH3", "CRC-32 (zlib)")
    for size in SIZES:
        data, copy = np.ones(size, np.uint8), np.ones(size, np.uint8)
        calls = [
            lambda: np.copyto(copy, data),  # noqa: B023
            lambda: xxhash.xxh3_64_intdigest(data),  # noqa: B023
            lambda: zlib.crc32(data),  # noqa: B023
        ]
        times = [microseconds(call, 20 * repeat, 1) for call in calls]
        table.add_row(f"{size:,}", *(f"{value:.1f}" for value in times))
    return table


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stream_costs", description=__doc__)
    parser.add_argument("--repeat", type=positive, default=5, help="runs (default: %(default)s)")
    options = parser.parse_args()
    console = Console()
    console.print(reading_times(options.repeat), checksum_times(options.repeat))


if __name__ == "__main__":
    main()
