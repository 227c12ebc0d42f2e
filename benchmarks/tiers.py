"""`python -m benchmarks.tiers`: what slots in host memory and on disk cost a streamed run.

- stores: libraries and metagrad's tiers write and read the same states, alone and beside a jitted
  compute. "processor" is the time of all threads that a move takes, "lost" that of the compute.
- half: a run whose steps take 20 ms and whose state has 10 MB, with half of its slots on disk,
  against the same run with all of them in memory. The two are timed in turn.
- host: a CPU's host tier that keeps the arrays, and one that copies them into buffers.
- memory: the peak of a process (VmHWM) whose slots take ten times its memory budget.

It prints tables and writes results/tiers_PART.json for each part.
"""

from __future__ import annotations

import argparse
import functools
import json
import logging
import os
import pathlib
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from rich.console import Console
from rich.table import Table

from benchmarks import record
from benchmarks.__main__ import RESULTS, positive, words
from benchmarks.disk_stores import STORES, Store, opened
from metagrad.runtime.byte_sizes import format_bytes, parse_bytes
from metagrad.runtime.tiers.device import DeviceTier
from metagrad.runtime.tiers.disk import DiskTier, default_directory
from metagrad.runtime.tiers.host import HostBuffers
from metagrad.runtime.tiers.tier import Tier, nbytes

STATES = {"10 MB in 30 leaves": (10, 30, 12), "200 MB in 60 leaves": (200, 60, 3)}
"""Megabytes, leaves, and slots that are written and read."""

STEP_SECONDS = 0.02


def state(megabytes: float, leaves: int) -> list[jax.Array]:
    """Square matrices that take so many megabytes together."""
    size = round((megabytes * 1e6 / leaves / 4) ** 0.5)
    keys = jax.random.split(jax.random.key(0), leaves)
    return [jax.random.normal(key, (size, size)) / size**0.5 for key in keys]


def step_of(arrays: Sequence[jax.Array]) -> Callable[[Sequence[jax.Array]], list[jax.Array]]:
    """A jitted step of about STEP_SECONDS: matrix products, as in training, and new leaves."""

    @jax.jit
    def step(arrays, products):
        product = lambda _, x: jnp.tanh(x @ x)
        x = jax.lax.fori_loop(0, products, product, jnp.eye(384) + arrays[0][0, 0])
        return [leaf * 0.999 + 1e-6 * x[0, 0] for leaf in arrays]

    run = lambda products: lambda: step(arrays, products)
    few, many = (min(seconds(run(count)) for _ in range(15)) for count in (1, 21))
    products = max(round(1 + (STEP_SECONDS - few) / (many - few) * 20), 1)
    return lambda arrays: step(arrays, products)


def seconds(call: Callable[[], object]) -> float:
    """How long a call takes until its results are there."""
    start = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - start


def both_clocks(call: Callable[[], object]) -> tuple[float, float]:
    """How long a call takes, and for how long it keeps a processor busy, in all threads."""
    start = time.process_time()
    took = seconds(call)
    return took, time.process_time() - start


def beside(work: Callable[[], None], compute: Callable[[], object]) -> tuple[float, float]:
    """Runs `work` in a thread while this one computes.

    Returns:
      Seconds of the work, and seconds that the compute lost by it.
    """
    quiet = statistics.median(seconds(compute) for _ in range(9))
    took: list[float] = []
    thread = threading.Thread(target=lambda: took.append(seconds(work)))
    start, calls = time.perf_counter(), 0
    thread.start()
    while thread.is_alive():
        seconds(compute)
        calls += 1
    lost = time.perf_counter() - start - calls * quiet
    thread.join()
    return took[0], lost


def write_all(store: Store, slots: int, arrays: Sequence[jax.Array]) -> None:
    for slot in range(slots):
        store.write(slot, arrays)
        store.drop(slot)


def read_all(store: Store, slots: int) -> None:
    for slot in range(slots):
        store.read(slot)
        store.drop(slot)


def measure_stores(folder: pathlib.Path, repeat: int, names: Sequence[str]) -> list[dict[str, Any]]:
    """Writes and reads all slots, alone and beside the compute; medians over the repeats."""
    compute = functools.partial(step_of(small := state(1, 3)), small)
    rows = []
    for description, (megabytes, leaves, slots) in STATES.items():
        arrays = jax.block_until_ready(state(megabytes, leaves))
        size = sum(array.nbytes for array in arrays) / 1e6
        for name in names:
            with opened(name, folder, slots, arrays) as store:
                write = functools.partial(write_all, store, slots, arrays)
                read = functools.partial(read_all, store, slots)
                write()
                read()
                row: dict[str, Any] = {"state": description, "store": name}
                for verb, work in (("write", write), ("read", read)):
                    alone, processor = map(
                        statistics.median, zip(*[both_clocks(work) for _ in range(repeat)])
                    )
                    busy = [beside(work, compute) for _ in range(repeat)]
                    took, lost = (statistics.median(column) for column in zip(*busy))
                    row[verb] = {
                        "ms": 1e3 * alone / slots,
                        "MB/s": size * slots / alone,
                        "MB/s, busy": size * slots / took,
                        "processor ms": 1e3 * processor / slots,
                        "lost ms": 1e3 * lost / slots,
                    }
                rows.append(row)
    return rows


def run(step: Callable, initial: list[jax.Array], tiers: Sequence[Tier]) -> None:
    """What a streamed executor does: state t goes to slot t, and they come back in reverse.

    Args:
      step: advances a state; reversing a step takes as long here.
      tiers: that of each slot; a tier has a slot for each step.
    """
    arrays = initial
    for slot, tier in enumerate(tiers):
        tier.write(slot, arrays)
        arrays = jax.block_until_ready(step(arrays))
    for slot in reversed(range(len(tiers))):
        for near in range(max(slot - 2, 0), slot):
            tiers[near].prefetch(near)
        jax.block_until_ready(step(tiers[slot].read(slot)))
        tiers[slot].free(slot)


def measure_half(folder: pathlib.Path, repeat: int, steps: int = 48) -> dict[str, Any]:
    """Runs with none, half and all of the slots on disk, in turn."""
    initial = state(10, 30)
    step = step_of(initial)
    rounds: list[dict[str, tuple[float, float]]] = []
    with DeviceTier() as memory, DiskTier(folder) as disk:
        for tier in (memory, disk):
            tier.allocate(steps, initial)
        places = {
            "none": [memory] * steps,
            "half": [memory, disk] * (steps // 2),
            "all": [disk] * steps,
        }
        for _ in range(repeat + 1):
            rounds.append({})
            for name, tiers in places.items():
                rounds[-1][name] = both_clocks(functools.partial(run, step, initial, tiers))
    del rounds[0]  # The first one compiles, and touches memory for the first time.
    over_none = lambda name, clock: statistics.median(
        row[name][clock] - row["none"][clock] for row in rounds
    )
    none = statistics.median(row["none"][0] for row in rounds)
    return {
        "steps": steps,
        "step ms": 1e3 * none / (2 * steps),
        "lost, half": over_none("half", 0) / none,
        "lost, all": over_none("all", 0) / none,
        "lost processor, half": over_none("half", 1)
        / statistics.median(row["none"][1] for row in rounds),
        "processor ms of a write and a read": 1e3 * over_none("all", 1) / steps,
        "rounds": rounds,
    }


def memory_run(folder: pathlib.Path, budget: int, times: int, kind: str) -> dict[str, Any]:
    """A run in a process of its own, whose peak says what its slots take.

    Args:
      budget: bytes of the process.
      times: how often the slots take the budget.
      kind: "disk" for slots on disk where the budget does not allow more in memory, else the host
          tier of a CPU: "kept" or "buffers". All of the slots are there, so `times` is 1.
    """
    initial = state(10, 30)
    step = step_of(initial)
    state_bytes = sum(map(nbytes, initial))
    slots = times * budget // state_bytes
    makers = {"disk": lambda: DiskTier(folder), "kept": DeviceTier, "buffers": HostBuffers}
    with DeviceTier() as memory, makers[kind]() as other:
        other.allocate(slots, initial)
        memory.allocate(slots, initial)
        before = resident("VmRSS")
        kept = 0
        if isinstance(other, DiskTier):
            # Two states are the step's own, and two on their way through the run.
            left = budget - before - other.transit_bytes - 4 * state_bytes
            kept = max(left // state_bytes, 0)
        took = seconds(lambda: run(step, initial, [memory] * kept + [other] * (slots - kept)))
    return {
        "kind": kind,
        "budget": budget,
        "slot bytes": slots * state_bytes,
        "slots": slots,
        "slots in memory": kept,
        "resident before": before,
        "peak": resident("VmHWM"),
        "seconds": took,
    }


def resident(field: str) -> int:
    """Bytes of this process: VmRSS is what it has now, VmHWM the most that it ever had."""
    status = pathlib.Path("/proc/self/status").read_text()
    return int(re.search(rf"{field}:\s*(\d+) kB", status)[1]) << 10


def measure_memory(folder: pathlib.Path, budget: int, times: int, kind: str) -> dict[str, Any]:
    """`memory_run` in a process of its own."""
    words = [sys.executable, "-m", "benchmarks.tiers", "--parts", "memory-run"]
    words += ["--budget", str(budget), "--times", str(times), "--directory", str(folder)]
    words += ["--kind", kind]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def stores_table(state: str, rows: list[dict[str, Any]]) -> Table:
    heads = ("ms", "MB/s", "processor ms", "lost ms")
    table = Table("store", *(f"{verb}, {head}" for verb in ("write", "read") for head in heads))
    table.title = f"a state of {state}"
    for row in rows:
        cells = [f"{row[verb][head]:.1f}" for verb in ("write", "read") for head in heads]
        table.add_row(row["store"], *cells)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.tiers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--parts", type=words(), default=("stores", "half", "host", "memory"))
    parser.add_argument("--stores", type=words(), default=tuple(STORES))
    parser.add_argument("--repeat", type=positive, default=5)
    parser.add_argument("--budget", type=functools.partial(parse_bytes, "--budget"), default="1GiB")
    parser.add_argument("--times", type=positive, default=10)
    parser.add_argument("--kind", choices=("disk", "kept", "buffers"), default="disk")
    parser.add_argument("--directory", type=pathlib.Path, default=default_directory())
    parser.add_argument("--out", type=pathlib.Path, default=RESULTS)
    options = parser.parse_args()
    if options.parts == ("memory-run",):
        print(
            json.dumps(memory_run(options.directory, options.budget, options.times, options.kind))
        )
        return
    # Orbax says much of what it does.
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore", module="orbax")
    console = Console() if sys.stdout.isatty() else Console(width=140)
    provenance = record.provenance("python -m benchmarks.tiers " + shlex.join(sys.argv[1:]))
    # Processes that run or wait for a processor: far above zero, and times say little.
    provenance["load"] = os.getloadavg()
    written: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(dir=options.directory, prefix="metagrad-bench-") as name:
        folder = pathlib.Path(name)
        if "stores" in options.parts:
            written["stores"] = measure_stores(folder, options.repeat, options.stores)
            for description in STATES:
                rows = [row for row in written["stores"] if row["state"] == description]
                console.print(stores_table(description, rows))
        if "half" in options.parts:
            half = written["half"] = measure_half(folder, options.repeat)
            console.print(
                f"steps of {half['step ms']:.1f} ms: {half['lost, half']:.1%} lost with half of "
                f"the slots on disk ({half['lost processor, half']:.1%} of the processor's time), "
                f"{half['lost, all']:.1%} with all of them; a write and a read take "
                f"{half['processor ms of a write and a read']:.1f} ms of a processor"
            )
        if "host" in options.parts:
            written["host"] = [
                measure_memory(folder, options.budget // 2, 1, kind) for kind in ("kept", "buffers")
            ]
            for row in written["host"]:
                console.print(
                    f"host, {row['kind']}: {row['slots']} slots take "
                    f"{format_bytes(row['slot bytes'])}, the process grew by "
                    f"{format_bytes(row['peak'] - row['resident before'])}; {row['seconds']:.1f} s"
                )
        if "memory" in options.parts:
            row = written["memory"] = measure_memory(folder, options.budget, options.times, "disk")
            console.print(
                f"{row['slots']} slots take {format_bytes(row['slot bytes'])}, the budget is "
                f"{format_bytes(row['budget'])}, the process's peak {format_bytes(row['peak'])} "
                f"({row['peak'] / row['budget'] - 1:+.1%}); {row['seconds']:.0f} s"
            )
    for part, rows in written.items():
        path = options.out / f"tiers_{part}.json"
        record.write(path, provenance | {part: rows})
        console.print(f"written: {path}")


if __name__ == "__main__":
    main()
