"""Who takes part. Each contender is in a file of its own, written as its authors would write it."""

from __future__ import annotations

import math

from benchmarks.contenders import (
    checkpointed,
    equinox_loop,
    metagrad_schedules,
    mixflow,
    plain,
    plain_pieces,
    replay,
    unrolled,
)
from benchmarks.contenders.contender import Contender

PLAIN = plain.FUSED.name
PIECES = plain_pieces.PIECES.name


def field(steps: int, ks: tuple[int, ...]) -> list[Contender]:
    """The contenders for runs of this many steps; plain training, the unit, comes first.

    `ks` are the arities of the lazy k-ary trees.
    """
    by_metagrad = metagrad_schedules.contender
    every = math.isqrt(steps)
    return [
        plain.FUSED,
        plain.LOOP,
        plain_pieces.PIECES,
        unrolled.UNROLLED,
        checkpointed.CHECKPOINTED,
        mixflow.MIXFLOW,
        # 24 states, and as many states as take the memory of 24 states and 25 gradients under Adam,
        # whose state is three times the parameters.
        equinox_loop.contender(24),
        equinox_loop.contender(32),
        *(replay.by_jax(k) for k in ks),
        *(replay.by_mixed_mode(k) for k in ks),
        *(by_metagrad(f"LazyKary({k})", lambda metagrad, k=k: metagrad.LazyKary(k)) for k in ks),
        by_metagrad("Binomial(24)", lambda metagrad: metagrad.Binomial(24)),
        by_metagrad("Binomial(16, rebuild=2)", lambda metagrad: metagrad.Binomial(16, rebuild=2)),
        by_metagrad(f"Periodic({every})", lambda metagrad: metagrad.Periodic(every)),
        by_metagrad("StoreAll", lambda metagrad: metagrad.StoreAll()),
        by_metagrad("Auto", lambda metagrad: metagrad.Auto()),
    ]
