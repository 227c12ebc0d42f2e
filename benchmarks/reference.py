"""The reference: the metagradient in f64, by JAX, from the same f32 numbers.

Steps are checkpointed so that long runs fit into memory. This repeats arithmetic and changes no
result.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np

from benchmarks.contenders.checkpointed import per_step
from benchmarks.contenders.unrolled import metagradient
from benchmarks.models.model import Model, as_dtype


class Reference(NamedTuple):
    """Attributes: value, the held-out loss after training; gradient, f64[examples]."""

    value: float
    gradient: np.ndarray

    def error(self, gradient) -> float:
        """The largest deviation of any entry, relative to the largest entry of the reference."""
        return float(
            np.max(np.abs(np.asarray(gradient, np.float64) - self.gradient))
            / np.max(np.abs(self.gradient))
        )


def reference(model: Model, steps: int) -> Reference:
    arguments = as_dtype(
        (model.state0, model.meta, model.draw_batches(steps), model.held_out), np.float64
    )
    with jax.enable_x64(True):
        value, gradient = jax.jit(metagradient(model, model.make_step(jax), per_step))(*arguments)
        return Reference(float(value), np.asarray(gradient))
