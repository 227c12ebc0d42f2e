"""`python -m benchmarks.host_call`: what a call costs on the host, beside what XLA takes for it.

The model does next to nothing: its state has n leaves of four numbers, and it takes two steps. So a
call's time is that of walking trees, checking arguments and handing arrays over. Two calls are
timed in turn, one right after the other: the metagradient on the user's trees, and XLA's program
alone on flat arrays. It reports medians, and the median of the differences, which is metagrad's own
share.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
from rich.console import Console
from rich.table import Table

import metagrad
from benchmarks.__main__ import positive, words

STEPS = 2


def problem(leaves: int) -> tuple[metagrad.Metagradient, tuple]:
    """A metagradient of a state with `leaves` leaves, and arguments for it."""

    @metagrad.compile
    def step(state, rate, batch):
        return jax.tree.map(lambda leaf: leaf * rate + batch, state)

    mg = step.metagradient(lambda state: sum(map(jnp.sum, jax.tree.leaves(state))))
    state = {
        f"layer{i:03}": {"w": jnp.ones(4), "b": jnp.ones(4), "scale": jnp.ones(4)}
        for i in range(leaves // 3)
    }
    return mg, (state, jnp.asarray(0.5), jnp.ones(STEPS))


def seconds(call: Callable[[], object]) -> float:
    """How long a call takes until its results are there."""
    start = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - start


def measure(leaves: int, repeat: int) -> tuple[float, float, float]:
    """Median seconds of a call, of XLA's program alone, and of the difference."""
    mg, arguments = problem(leaves)
    compiled = mg.lower(*arguments).compile()
    # XLA's program on its flat arguments, without anything of ours around it.
    arrays = jax.tree.leaves(arguments)
    calls = (lambda: mg(*arguments), lambda: compiled.xla(*arrays))
    for call in calls:
        for _ in range(10):
            seconds(call)
    totals, alone = zip(*[tuple(map(seconds, calls)) for _ in range(repeat)])
    share = statistics.median(total - xla for total, xla in zip(totals, alone))
    return statistics.median(totals), statistics.median(alone), share


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.host_call", description=__doc__)
    parser.add_argument(
        "--leaves",
        type=words(positive),
        default=(3, 30, 300),
        help="leaves of the state, rounded down to a multiple of 3 (default: 3,30,300)",
    )
    parser.add_argument(
        "--repeat", type=positive, default=300, help="calls that are timed (default: %(default)s)"
    )
    options = parser.parse_args()
    table = Table("leaves", "a call (ms)", "XLA's program (ms)", "metagrad's share (ms)")
    for leaves in options.leaves:
        times = measure(leaves, options.repeat)
        table.add_row(str(leaves // 3 * 3), *(f"{1e3 * value:.2f}" for value in times))
    Console().print(table)


if __name__ == "__main__":
    main()
