"""A surrogate whose examples are added at several late steps: the sum of their gradients.

The gradient of one step says what an example does to that step alone, on one batch's momentum. A
sum over K steps has less noise, and costs one metagradient of the steps behind the first of them,
one plain training, and K passes over the pool. The K directions come out of the same reversal, as
the gradient of what is added to the gradients of these steps.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metagrad.api.plain_steps import PlainSteps, batches_from, steps_of
from metagrad.api.results import Result
from metagrad.api.train_step import compile
from metagrad.mgd.added_loss import Added, added_loss, check_use, no_addition
from metagrad.mgd.surrogate_checks import check_pool, check_value, with_extra
from metagrad.mgd.surrogates import Surrogate, like_counts, no_extra, request_of
from metagrad.runtime.streams import Stream


class SurrogateOfSteps(Surrogate):
    """`Surrogate` for several steps: called the same way, and its gradient is their sum."""

    def __init__(
        self,
        step: Callable[..., Any],
        losses: Callable[[Any, Any], Any],
        outer: Callable[..., Any],
        at: tuple[int, ...],
        params: Callable[[Any], Any],
        chunk: int | None,
        options: dict[str, Any],
    ):
        self._losses, self._params, self._chunk, self._several = losses, params, chunk, at
        # The counts stand in the state, where they need no slot and have no gradient.
        self._mg = compile(functools.partial(_numbered_step, step, params)).metagradient(
            lambda state, *outer_args: outer(state[0], *outer_args), wrt="meta", **options
        )

        @functools.wraps(step)
        def plain(state: Any, meta: Any, batch: Any) -> Any:
            return step(state, meta, batch, no_extra)

        of_plain = compile(plain).metagradient(outer, wrt="state", **options)
        self.request = request_of(of_plain, losses, outer, params)
        self._plain = PlainSteps(plain)
        self._sum = jax.jit(self._sum_of)

    @property
    def settings(self) -> str:
        return f"at={self._several}"

    def __call__(
        self, state0: Any, counts: jax.Array, batches: Any, pool: Any, *outer_args: Any
    ) -> Result:
        """The value, the gradient [n] at z = 0, and the final state; as `Surrogate` has them.

        Raises:
          ValueError: there is no such step, the pool has not n examples, or the step uses the extra
            loss at other parameters than `params(state)`, or its second derivative.
        """
        counts = jnp.asarray(counts)
        check_pool(pool, counts)
        at = steps_in(self._several, steps_of(batches))
        states = self._states(state0, counts, batches, at)
        params = [self._params(state) for state in states]
        added = jax.tree.map(lambda leaf: jnp.stack([leaf] * len(at)), no_addition(params[0]))
        value, directions, (final, _) = self._mg(
            (states[0], counts), added, _numbered(batches, at), *outer_args
        )
        check_value(value)
        check_use(directions)
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *params)
        gradient = like_counts(self._sum(stacked, directions, pool), counts)
        return Result(value, gradient, final)

    def _states(self, state: Any, counts: Any, batches: Any, at: list[int]) -> list[Any]:
        """The states before the steps `at`."""
        states = []
        for begin, end in zip([0, *at], at):
            state = self._plain(state, counts, batches, end, begin)
            states.append(state)
        return states

    def _sum_of(self, params: Any, directions: Any, pool: Any) -> jax.Array:
        products = lambda pair: self._products_of(pair[0], pair[1], pool)
        return jax.lax.map(products, (params, directions)).sum(0)


def steps_in(at: tuple[int, ...], steps: int) -> list[int]:
    """The steps from 0 on, sorted.

    Raises:
      ValueError: one is not among the T steps, or two are the same.
    """
    from_the_start = sorted(t + steps if t < 0 else t for t in at)
    if not 0 <= from_the_start[0] <= from_the_start[-1] < steps:
        raise ValueError(f"at={at} is not within the {steps} steps of these batches")
    if len(set(from_the_start)) < len(at):
        raise ValueError(f"at={at} has a step twice, of these {steps}")
    return from_the_start


def _numbered_step(
    step: Callable, params: Callable, state_and_counts: Any, added: Added, numbered: Any
) -> Any:
    state, counts = state_and_counts
    batch, number = numbered

    def extra(used: Any) -> Any:
        """What is added at this step, if it is one of them."""
        row = jax.tree.map(lambda leaf: leaf[jnp.maximum(number, 0)], added)
        return jnp.where(number < 0, 0.0, added_loss(row, params(state), used))

    return with_extra(step, state, counts, batch, extra), counts


def _numbered(batches: Any, at: list[int]) -> Any:
    """The batches from the first of the steps on, each with its place in `at`, or -1: int32."""
    rest = batches_from(batches, at[0])
    number = np.full(steps_of(rest), -1, np.int32)
    number[np.array(at) - at[0]] = np.arange(len(at))
    if not isinstance(batches, Stream):
        return rest, number
    return Stream(_Numbered(rest, number), workers=rest.workers, sharding=rest.sharding)


class _Numbered:
    """The batches of a stream, each with its number, as a source."""

    def __init__(self, stream: Stream, number: np.ndarray):
        self._stream, self._number = stream, number

    def __len__(self) -> int:
        return len(self._number)

    def __getitem__(self, t: int) -> Any:
        return self._stream[t], self._number[t]
