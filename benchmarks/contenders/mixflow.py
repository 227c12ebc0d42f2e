"""MixFlow-MG by hand (Kemaev et al. 2025, arXiv 2505.00793).

It has mixed-mode inner gradients, `jax.checkpoint` per step, and saves the inner gradients.
Every state and every inner gradient is held. On the way back the optimiser's update is run again,
from the saved gradient, and the inner gradient is not.
"""

from __future__ import annotations

import functools

import jax

from benchmarks.contenders import mixed_mode
from benchmarks.contenders.contender import Built, Contender, Problem, compile_program
from benchmarks.contenders.unrolled import metagradient

per_step = functools.partial(
    jax.checkpoint,
    prevent_cse=False,
    policy=jax.checkpoint_policies.save_only_these_names(mixed_mode.INNER_GRADIENT),
)


def build(problem: Problem) -> Built:
    return compile_program(
        metagradient(problem.model, problem.model.make_step(mixed_mode), per_step), problem
    )


MIXFLOW = Contender("mixflow", build)
