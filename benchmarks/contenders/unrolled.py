"""`jax.grad` of the `lax.scan` that trains, as it stands.

Every intermediate value of every step is held.
"""

from __future__ import annotations

import jax

from benchmarks.contenders.contender import Built, Contender, Problem, compile_program
from benchmarks.models.model import Model


def metagradient(model: Model, step, checkpoint=lambda step: step):
    """`program(state0, meta, batches, held_out) -> (value, gradient)`: differentiates the scan.

    `checkpoint` wraps the step.
    """

    def final_loss(state, meta, batches, held_out):
        body = checkpoint(lambda state, batch: (step(state, meta, batch), None))
        state, _ = jax.lax.scan(body, state, batches)
        return model.outer(state, held_out)

    # Counters in the state are integers, with float0 for a gradient.
    return jax.value_and_grad(
        final_loss, argnums=("state", "meta").index(model.wrt), allow_int=True
    )


def build(problem: Problem) -> Built:
    return compile_program(metagradient(problem.model, problem.model.make_step(jax)), problem)


UNROLLED = Contender("unrolled", build)
