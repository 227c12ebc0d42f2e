"""What a benchmarked training run consists of.

A model does not know who differentiates it. Its step is built from an inner gradient: `jax`,
`metagrad` and the hand-written mixed mode all offer `grad` and `value_and_grad` with JAX's
arguments, and the rest of the step is the same code for all.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

import jax
import numpy as np
import optax

# Without eps_root the square root has no derivative where a gradient is exactly zero, and the
# metagradient is NaN there. b2 is 0.999 rounded to a number that f32 holds exactly: with 0.999, the
# bias correction 1 - b2 loses five digits, and the f32 run would not be the run of its f64
# reference.
OPTIMISER = optax.adam(1e-3, b2=1 - 2**-10, eps_root=1e-8)


class Autodiff(Protocol):
    """Whoever takes the inner gradients: a module or object with these two of JAX's functions."""

    grad: Callable
    value_and_grad: Callable


@dataclasses.dataclass(frozen=True)
class Model:
    """A training run and the question about it.

    The question is how the metaparameters, or the initial state, change the held-out loss.

    Attributes:
      name: "mlp".
      description: one line for tables.
      state0: the state before the first step; float leaves are f32.
      meta: the metaparameters; in most models f32[examples], the weight of each training example.
      draw_batches: `draw_batches(T)` gives the batches, in most models (inputs, example index),
          each with a leading axis of length T.
      held_out: the batch on which the outer function takes its loss.
      make_step: `make_step(autodiff)` gives `step(state, meta, batch) -> state`.
      outer: `outer(state, held_out) -> scalar`.
      wrt: what the gradient is with respect to: "meta" or "state", the state before the first step.
    """

    name: str
    description: str
    state0: Any
    meta: Any
    draw_batches: Callable[[int], Any]
    held_out: Any
    make_step: Callable[[Autodiff], Callable]
    outer: Callable[[Any, Any], Any]
    wrt: str = "meta"


def as_dtype(tree: Any, dtype: Any) -> Any:
    """The tree as NumPy arrays, with every float leaf in `dtype`.

    From f32 to f64 nothing is rounded: the reference starts from the same numbers.
    """
    return jax.tree.map(
        lambda x: (
            np.asarray(x, dtype)
            if np.issubdtype(np.asarray(x).dtype, np.floating)
            else np.asarray(x)
        ),
        tree,
    )
