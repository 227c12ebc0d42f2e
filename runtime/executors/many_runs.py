"""`jax.vmap` of a metagradient: one program of several runs side by side.

They share the plan: one loop runs a step of all, and a slot holds the states of all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jax.interpreters import batching

from metagrad.runtime.executors.fused import PRIMITIVES, FusedProgram

REFUSAL = (
    "this metagradient cannot be put under jax.vmap: it was loaded from a file, which has the "
    "program for one run only. jax.lax.map without batch_size takes one after the other, in one "
    "program; or export a metagradient of a step and an outer function that take all runs at once."
)


def _batch(operands: Sequence[Any], axes: Sequence[int | None], *, program: FusedProgram):
    if program.derivations is None:
        raise NotImplementedError(REFUSAL)
    sizes = (operand.shape[axis] for operand, axis in zip(operands, axes) if axis is not None)
    many = program.derivations.many_runs(next(sizes), tuple(axis is not None for axis in axes))
    return many.call(operands, axes), [source.axis for source in many.results]


for _primitive in PRIMITIVES:
    batching.primitive_batchers[_primitive] = _batch
