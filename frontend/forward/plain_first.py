"""A run whose first steps are plain training, and whose last steps are another program's."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core
from jax.extend.core import jaxpr_as_fun

from metagrad.frontend.captured import captured_p
from metagrad.frontend.forward.run import settled
from metagrad.frontend.pytrees import Leaf, to_stored

Leaves = Sequence[Any]


@dataclasses.dataclass(frozen=True, eq=False)
class PlainFirst:
    """A run over flat leaves: `first` plain steps, and then `rest`.

    Attributes:
      step: (state, meta, batch) -> (state, aux).
      prints: what the step prints; None if nothing.
      rest: (state, meta, batches, outer arguments, captured arrays) -> results, of the last steps;
        arrays as a program holds them.
      first: the number of plain steps.
      state: the leaves of the state.
      aux: the leaves of the step's auxiliary output.
      captured: the types of the arrays that `rest` takes last.
      by_batch: the results with an axis of batches, by index, and which axis that is. These are
        gradients in batches, zero for those of the first steps.
    """

    step: core.ClosedJaxpr
    prints: core.ClosedJaxpr | None
    rest: Callable[..., Sequence]
    first: int
    state: Sequence[Leaf]
    aux: Sequence[Leaf]
    captured: Sequence[jax.ShapeDtypeStruct]
    by_batch: dict[int, int]

    def __call__(self, state: Leaves, meta: Leaves, batches: Leaves, outer_args: Leaves) -> list:
        """The results of a run of all steps, in the order of `rest`'s."""

        def advance(state, batch):
            operands = [*state, *meta, *batch]
            if self.prints is not None:
                jaxpr_as_fun(self.prints)(*operands)
            new = jaxpr_as_fun(self.step)(*operands)
            count = len(state)
            return [settled(x, s) for x, s in zip(new, state)], new[count:]

        early = [leaf[: self.first] for leaf in batches]
        late = [leaf[self.first :] for leaf in batches]
        state, aux = jax.lax.scan(advance, list(state), early)
        arguments = map(_stored, [*state, *meta, *late, *outer_args])
        arrays = [
            captured_p.bind(index=i, aval=jax.core.ShapedArray(aval.shape, aval.dtype))
            for i, aval in enumerate(self.captured)
        ]
        results = list(self.rest(*arguments, *arrays))
        for i, axis in self.by_batch.items():
            shape = (*results[i].shape[:axis], self.first, *results[i].shape[axis + 1 :])
            zeros = jnp.zeros(shape, results[i].dtype)
            results[i] = jnp.concatenate([zeros, results[i]], axis)
        for i, (early_rows, leaf) in enumerate(zip(aux, self.aux), len(results) - len(self.aux)):
            results[i] = jnp.concatenate([to_stored(leaf, early_rows), results[i]])
        return results


def _stored(array: Any) -> Any:
    is_key = jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key)
    return jax.random.key_data(array) if is_key else array
