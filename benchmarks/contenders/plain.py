"""Training without a metagradient, in two ways.

One is a fused `lax.scan`, the unit in which everything is measured. The other is a Python loop over
a jitted step.

The loop is there because the two can differ: XLA:CPU brings convolutions into the layout of its
fast kernel only where they stand outside of a loop.
"""

from __future__ import annotations

import time

import jax
import numpy as np

from benchmarks.contenders.contender import Built, Contender, Memory, Problem, compile_program
from benchmarks.models.model import Model


def training(model: Model):
    """`program(state0, meta, batches, held_out) -> (value, None)`: the scan that trains."""
    step = model.make_step(jax)

    def program(state, meta, batches, held_out):
        state, _ = jax.lax.scan(
            lambda state, batch: (step(state, meta, batch), None), state, batches
        )
        return model.outer(state, held_out), None

    return program


def build_fused(problem: Problem) -> Built:
    return compile_program(training(problem.model), problem)


def build_loop(problem: Problem) -> Built:
    step = problem.model.make_step(jax)

    def step_at(state, meta, batches, t):
        return step(
            state,
            meta,
            jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, t, keepdims=False), batches),
        )

    start = time.perf_counter()
    arguments = problem.state0, problem.meta, problem.batches, np.int32(0)
    advance = jax.jit(step_at).lower(*arguments).compile()
    advance_in_place = jax.jit(step_at, donate_argnums=0).lower(*arguments).compile()
    outer = jax.jit(problem.model.outer).lower(problem.state0, problem.held_out).compile()
    seconds = time.perf_counter() - start
    temporaries = max(
        p.memory_analysis().temp_size_in_bytes for p in (advance, advance_in_place, outer)
    )

    def run(state, meta, batches, held_out):
        for t in range(problem.steps):
            # The caller's own s_0 is not to be overwritten.
            state = (advance_in_place if t else advance)(state, meta, batches, np.int32(t))
        return outer(state, held_out), None

    return Built(run, Memory(problem.state_bytes + temporaries, "counted"), seconds)


FUSED = Contender("plain", build_fused)
LOOP = Contender("plain-loop", build_loop)
