"""Equinox's checkpointed scan around a step with mixed-mode inner gradients.

`equinox.internal.scan(kind="checkpointed")`: online binomial checkpointing (Stumm and Walther 2010)
in one XLA program, at most `checkpoints` states held. Its authors leave the step's own derivative
to the user; it gets the best one here, that of mixed_mode.py.
"""

from __future__ import annotations

import jax

from benchmarks.contenders import mixed_mode
from benchmarks.contenders.contender import Built, Contender, Problem, Unavailable, compile_program


def contender(checkpoints: int) -> Contender:
    def build(problem: Problem) -> Built:
        try:
            import equinox.internal as eqxi
        except ImportError:
            raise Unavailable("equinox is not installed: pip install 'metagrad[bench]'") from None
        model = problem.model
        step = model.make_step(mixed_mode)

        def final_loss(meta, state, batches, held_out):
            body = lambda state, batch: (step(state, meta, batch), None)
            state, _ = eqxi.scan(body, state, batches, kind="checkpointed", checkpoints=checkpoints)
            return model.outer(state, held_out)

        def program(state0, meta, batches, held_out):
            return jax.value_and_grad(final_loss)(meta, state0, batches, held_out)

        return compile_program(program, problem, checkpoints=min(checkpoints, problem.steps))

    return Contender(f"equinox({checkpoints})", build)
