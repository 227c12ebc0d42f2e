"""Training without a metagradient through metagrad's own pieces, as one program.

XLA is not equally good at plain JAX's training step and at the pieces that metagrad's passes have
been over. Against this unit, a metagradient's time is what is beside training itself.
"""

from __future__ import annotations

import time

import jax
import numpy as np

from benchmarks.contenders.contender import Built, Contender, Memory, Problem
from benchmarks.contenders.metagrad_schedules import imported, metagradient


def build(problem: Problem) -> Built:
    metagrad = imported()
    from metagrad.compiler import pipeline
    from metagrad.runtime.executors.fused import FusedProgram, Gradients, signature
    from metagrad.runtime.schedules.segment_tables import Segment

    start = time.perf_counter()
    lowered = metagradient(problem, metagrad.StoreAll()).lower(*problem.arguments)
    module = pipeline.kernel(lowered.program.snapshots, "advance", Segment(problem.steps))
    inputs, outputs = signature(module)
    bytecode = pipeline.bytecode_of(module)
    names = Gradients({}, ("",) * len(inputs), ("",) * len(outputs))
    program = FusedProgram(lambda _: bytecode, "cpu", inputs, outputs, (), names)
    advance = jax.jit(program.call).lower(*inputs).compile()
    seconds = time.perf_counter() - start

    def run(state, meta, batches, held_out):
        leaves = jax.tree.leaves((state, meta, batches))
        return advance(*leaves, np.int32(problem.steps)), None

    return Built(run, Memory(advance.memory_analysis().temp_size_in_bytes, "xla"), seconds)


PIECES = Contender("plain-pieces", build)
