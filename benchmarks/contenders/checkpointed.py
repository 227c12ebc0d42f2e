"""`jax.grad` of the `lax.scan` with `jax.checkpoint` around the step.

Every state is held, and each step runs once more on the way back.
"""

from __future__ import annotations

import functools

import jax

from benchmarks.contenders.contender import Built, Contender, Problem, compile_program
from benchmarks.contenders.unrolled import metagradient

# Inside a scan the step and its repetition are in different loops, so XLA cannot merge them; JAX's
# documentation says to leave its barrier out then.
per_step = functools.partial(jax.checkpoint, prevent_cse=False)


def build(problem: Problem) -> Built:
    return compile_program(
        metagradient(problem.model, problem.model.make_step(jax), per_step), problem
    )


CHECKPOINTED = Contender("checkpoint", build)
