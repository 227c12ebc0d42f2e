"""A streamed run of which only the last steps are differentiated (`metagrad.Truncated`).

The host walks a streamed run, so it makes the first steps too: plain ones, a batch at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from metagrad.api.plain_steps import PlainSteps, batches_from
from metagrad.runtime.streams import Stream


class TruncatedStream:
    """Called like a metagradient whose batches are a stream.

    Args:
      step: the user's step.
      has_aux: whether it has an auxiliary output.
      rest: the metagradient of the last steps.
      last: how many these are.
    """

    def __init__(self, step: Callable, has_aux: bool, rest: Callable, last: int):
        self._rest, self._last, self._has_aux = rest, last, has_aux
        self._plain = PlainSteps(step)
        self._one = jax.jit(step)

    def __call__(self, state0: Any, meta: Any, stream: Stream, *outer_args: Any) -> Any:
        """As the metagradient; auxiliary outputs are those of all steps."""
        first = len(stream) - self._last
        if first <= 0:
            return self._rest(state0, meta, stream, *outer_args)
        late = batches_from(stream, first)
        if not self._has_aux:
            state = self._plain(state0, meta, stream, first)
            return self._rest(state, meta, late, *outer_args)
        state, rows = state0, []
        for t in range(first):
            state, row = self._one(state, meta, stream[t])
            rows.append(row)
        result = self._rest(state, meta, late, *outer_args)
        aux = jax.tree.map(lambda late, *early: _joined(early, late), result.aux, *rows)
        return result._replace(aux=aux)


def _joined(early: tuple, late: Any) -> jax.Array:
    return jnp.concatenate([jnp.stack(early), late])
