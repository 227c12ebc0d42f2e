"""A training routine, from configuration to parameters, made of a training step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from metagrad.api.metagradient import Metagradient
from metagrad.api.train_step import TrainStep
from metagrad.frontend.pytrees import tree_of
from metagrad.runtime.streams import Stream
from metagrad.smoothness import points


# By identity: it holds arrays, which cannot be hashed.
@dataclasses.dataclass(frozen=True, eq=False)
class Training:
    """A plain run of a step: `train(meta)` is what the run ends up with. `training` makes it.

    Attributes:
      step: the step as a function.
      has_aux: whether it returns an auxiliary output as well, which is dropped.
      state0: the state before the first step.
      batches: a pytree whose leaves have a leading axis of length T.
      params: what of the final state counts as the parameters.
    """

    step: Callable
    has_aux: bool
    state0: Any
    batches: Any
    params: Callable

    def __repr__(self) -> str:
        lengths = [np.shape(leaf)[0] for leaf in jax.tree.leaves(self.batches)]
        name = getattr(self.step, "__name__", repr(self.step))
        return f"<Training of {name}, {lengths[0] if lengths else 0} steps>"

    def __call__(self, meta: Any) -> Any:
        of_state = tree_of("state0", self.state0)
        meta = jax.tree.map(points.as_array, meta)

        def advance(arrays, batch):
            new = self.step(of_state.rebuild(arrays), meta, batch)
            return of_state.arrays(new[0] if self.has_aux else new), None

        start = list(map(points.as_array, of_state.arrays(self.state0)))
        final, _ = jax.lax.scan(advance, start, self.batches)
        return self.params(of_state.rebuild(final))

    def in_double(self) -> Training:
        """The same run from a state and on batches in float64. x64 mode has to be on."""
        state0, batches = points.in_double(self.state0), points.in_double(self.batches)
        return dataclasses.replace(self, state0=state0, batches=batches)


def training(
    step: Any, state0: Any, batches: Any, *, params: Callable[[Any], Any] | None = None
) -> Training:
    """The training routine of a step: a function from the metaparameters to what training makes.

    It is a plain `lax.scan` of the step, for `metagrad.metasmoothness` and for `landscape`.

    Args:
      step: a step that `metagrad.compile` decorates, a metagradient (its step is taken), or a
        function `step(state, meta, batch) -> new_state`.
      state0: the state before the first step.
      batches: a pytree whose leaves have a leading axis of length T.
      params: takes the final state and returns the parameters, `lambda state: state.params`, say.
        By default it is the whole state, an optimiser's moments too.

    Returns:
      A `Training`: `train(meta) -> params`.

    Raises:
      TypeError: the step is none of these, or the batches are a `metagrad.Stream`.

    >>> import jax.numpy as jnp, metagrad
    >>> step = metagrad.compile(lambda w, rate, x: w - rate * (w - x))
    >>> train = metagrad.smoothness.training(step, jnp.zeros(2), jnp.ones((3, 2)))
    >>> train(0.5)
    Array([0.875, 0.875], dtype=float32)
    """
    if isinstance(batches, Stream):
        raise TypeError(
            "batches is a Stream, and this routine is one program. Give stacked arrays, or a "
            "function of your own that runs the training, with metasmoothness(jit=False)."
        )
    if isinstance(step, Metagradient):
        function, has_aux = step.request.step, step.request.step_has_aux
    elif isinstance(step, TrainStep):
        function, has_aux = step._step, step._has_aux
    elif callable(step):
        function, has_aux = step, False
    else:
        raise TypeError(f"step must be a training step or a metagradient, not {step!r}")
    return Training(function, has_aux, state0, batches, params or (lambda state: state))
