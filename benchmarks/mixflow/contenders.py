"""Who computes the metagradients of the tasks: JAX, JAX with checkpoints, by hand, metagrad, and
TorchOpt."""

from __future__ import annotations

from benchmarks.contenders import checkpointed, metagrad_schedules, mixflow, unrolled
from benchmarks.contenders.contender import Built, Contender, Problem
from benchmarks.mixflow.by_torchopt import TORCHOPT

DEFAULT = "default"
BY_HAND = "by hand"
OURS = "metagrad"
OURS_BLOCKS = "metagrad + blocks"
"""`remat="blocks"`: the compiler finds the layers, and computes them again."""


def in_blocks(name: str, contender: Contender) -> Contender:
    """The contender on the task whose layers are in a `jax.checkpoint` each."""

    def build(problem: Problem) -> Built:
        return contender.build(problem._replace(model=problem.model.with_blocks(True)))

    return Contender(name, build)


AUTO = metagrad_schedules.contender("Auto", lambda metagrad: metagrad.Auto())
AUTO_BLOCKS = metagrad_schedules.contender("Auto", lambda metagrad: metagrad.Auto(), remat="blocks")

CONTENDERS = {
    each.name: each
    for each in (
        Contender(DEFAULT, unrolled.build),
        Contender("checkpoint", checkpointed.build),
        in_blocks("checkpoint + blocks", checkpointed.CHECKPOINTED),
        in_blocks(BY_HAND, mixflow.MIXFLOW),
        Contender(OURS, AUTO.build),
        Contender(OURS_BLOCKS, AUTO_BLOCKS.build),
        TORCHOPT,
    )
}
"""By name, in the order of the table's columns."""
