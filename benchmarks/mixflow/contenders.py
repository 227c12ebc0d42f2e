"""Who computes the metagradients of the tasks: JAX, JAX with checkpoints, by hand, metagrad, and
TorchOpt."""

from __future__ import annotations

import dataclasses

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


def with_final_state(name: str, contender: Contender) -> Contender:
    """A contender of metagrad, whose memory includes the final state.

    The final state is a result of a metagradient, and XLA's temporaries include no results. The
    others give the gradient alone, and the final state is one of their temporaries.
    """

    def build(problem: Problem) -> Built:
        built = contender.build(problem)
        memory = built.memory._replace(bytes=built.memory.bytes + problem.state_bytes)
        return dataclasses.replace(built, memory=memory)

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
        with_final_state(OURS, AUTO),
        with_final_state(OURS_BLOCKS, AUTO_BLOCKS),
        TORCHOPT,
    )
}
"""By name, in the order of the table's columns."""
