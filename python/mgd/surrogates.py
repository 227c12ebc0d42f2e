"""`metagrad.mgd.surrogate`: what one more use of an example would do to the outer value.

Counts are integers, and a run is no differentiable function of them. In their place stands a
surrogate (Engstrom et al. 2025, arXiv 2503.13751): the run as it is, with
sum_i z_i l(x_i) added to the loss of one late step k, over the whole pool. Its gradient at z = 0 is

    g_i = d outer / d z_i = <u, grad l(x_i)(params_k)> + s l(x_i)(params_k),

where u is the derivative of the outer value with respect to the gradient of step k, and s that with
respect to the value of its loss, which few steps use. Nothing depends on z before step k. So the
steps before it are plain training, the metagradient is that of the steps behind it, and the
products of all n gradients with u are one pass over the pool in forward mode: n per-example
gradients are never there. All of it is exact.
"""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any, Generic, cast

import jax
import jax.numpy as jnp
import numpy as np

from metagrad.api.plain_steps import PlainSteps, batch_at, batches_from, steps_of
from metagrad.api.results import Result
from metagrad.api.train_step import compile
from metagrad.api.type_variables import StateT
from metagrad.frontend.dtypes import is_float
from metagrad.mgd.added_loss import Added, added_loss, check_use, no_addition
from metagrad.mgd.surrogate_checks import (
    check_pool,
    check_step,
    check_value,
    checked_losses,
    with_extra,
)


def no_extra(params: Any) -> float:
    """The extra loss of every step but one: none. It is the default of a step's fourth argument."""
    del params
    return 0.0


class Surrogate(Generic[StateT]):
    """Called and answering like a metagradient with respect to counts; `surrogate` makes it.

    Attributes:
      request: the plain step, and the outer function with the losses of the pool.
    """

    def __init__(
        self,
        step: Callable[..., StateT],
        losses: Callable[[Any, Any], Any],
        outer: Callable[..., Any],
        at: int,
        params: Callable[[StateT], Any],
        chunk: int | None,
        options: dict[str, Any],
    ):
        self._step, self._losses, self._outer = step, losses, outer
        self._at, self._params, self._chunk = at, params, chunk

        @functools.wraps(step)
        def plain(state: Any, meta: Any, batch: Any) -> Any:
            return step(state, meta, batch, no_extra)

        self._first = PlainSteps(plain)
        self._last = compile(plain).metagradient(outer, wrt="state", **options)
        self.request = request_of(self._last, losses, outer, params)
        self._after_the_last = jax.jit(
            jax.value_and_grad(outer, has_aux=options.get("has_aux", False), allow_int=True)
        )
        self._direction = jax.jit(self._direction_of)
        self._products = jax.jit(self._products_of)

    @property
    def settings(self) -> str:
        return f"at={self._at}"

    def __call__(
        self, state0: StateT, counts: jax.Array, batches: Any, pool: Any, *outer_args: Any
    ) -> Result[jax.Array, jax.Array, StateT]:
        """The value, the gradient [n] at z = 0, and the final state.

        Args:
          state0: the state before the first step.
          counts: [n]. The step is given them as `meta`; the gradient is that of z alone.
          batches: as for a metagradient, drawn with these counts; or a `metagrad.Stream`.
          pool: the n examples, a pytree of arrays [n, ...], as `losses` takes them.
          *outer_args: further arguments of the outer function.

        Raises:
          ValueError: there is no step `at`, the pool has not n examples, or the step uses the extra
            loss at other parameters than `params(state)`, or its second derivative.
        """
        counts = jnp.asarray(counts)
        check_pool(pool, counts)
        steps = steps_of(batches)
        at = self._at + steps if self._at < 0 else self._at
        if not 0 <= at < steps:
            raise ValueError(f"at={self._at} is none of the {steps} steps of these batches")
        state = self._first(state0, counts, batches, at)
        batch = batch_at(batches, at)
        after = self._first(state, counts, batches, at + 1, at)
        if at == steps - 1:
            value, cotangent = self._after_the_last(after, *outer_args)
            final = after
        else:
            value, cotangent, final = self._last(
                after, counts, batches_from(batches, at + 1), *outer_args
            )
        check_value(value)
        params, direction = self._direction(state, counts, batch, cotangent)
        check_use(direction)
        gradient = like_counts(self._products(params, direction, pool), counts)
        return Result(value, gradient, final)

    def _direction_of(self, state: Any, meta: Any, batch: Any, cotangent: Any) -> tuple[Any, Added]:
        """The parameters, and the derivative with respect to what is added to their loss."""
        params = self._params(state)

        def step(added: Added) -> Any:
            extra = functools.partial(added_loss, added, params)
            return with_extra(self._step, state, meta, batch, extra)

        _, vjp = jax.vjp(step, no_addition(params))
        return params, vjp(cotangent)[0]

    def _products_of(self, params: Any, direction: Added, pool: Any) -> jax.Array:
        """The derivative along the direction that each example's loss, if it is added, has: [n]."""

        def along(examples: Any) -> jax.Array:
            losses = lambda params: checked_losses(self._losses(params, examples), examples)
            values, products = jax.jvp(losses, (params,), (direction.slope,))
            of_value = direction.rest[0].astype(values.dtype)
            return products + jnp.where(of_value == 0, 0, of_value * values)

        return _in_chunks(along, pool, self._chunk)


def surrogate(
    step: Callable[..., StateT],
    losses: Callable[[Any, Any], Any],
    outer: Callable[..., Any],
    *,
    at: int | Sequence[int],
    params: Callable[[StateT], Any],
    chunk: int | None = None,
    **options: Any,
) -> Surrogate[StateT]:
    """The gradient by which `integer_counts` updates how often each example is used.

    It stands in the place of a metagradient in `metagrad.descent`, and exactly gives the gradient
    at z = 0 of the run in which sum_i z_i losses_i is added to the training loss of step `at`.

    Args:
      step: `step(state, meta, batch, extra) -> new_state`. It adds `extra(params)` to the loss that
        it takes the gradient of, at the parameters `params(state)` and nowhere else, and is
        undecorated. `metagrad.mgd.no_extra` is the extra loss of plain training: make it the
        default, and the same function is your training step.
      losses: `losses(params, examples) -> [m]`: the loss of each of m examples of the pool.
      outer: `outer(state, *outer_args)`, a real scalar.
      at: the step at which the examples are added, from 0; or from the end, if it is negative. A
        late one costs less: only the steps behind it are reversed. Several steps: the sum of their
        gradients, which has less noise, for the price of the earliest.
      params: `params(state)`: the parameters that the loss is called with.
      chunk: how many examples of the pool are on their way at the same time; None: all.
      **options: of `metagradient`, for the steps behind `at`: `schedule`, `progress`, ...

    Returns:
      A callable `(state0, counts, batches, pool, *outer_args) -> Result(value, grad [n], state)`.
      It raises a ValueError if the step uses the extra loss in a way in which the gradient would be
      wrong: at other parameters (as sharpness-aware minimisation does), or its second derivative.

    Raises:
      TypeError: a function is none, or `at` is neither an integer nor several.
      ValueError: `at` is empty, or `chunk` is below 1.

    >>> import jax.numpy as jnp, metagrad
    >>> losses = lambda w, x: (w - x) ** 2
    >>> def step(w, counts, x, extra=metagrad.mgd.no_extra):
    ...     return w - 0.1 * metagrad.grad(lambda w: jnp.mean(losses(w, x)) + extra(w))(w)
    >>> outer = lambda w: (w - 2) ** 2
    >>> mg = metagrad.mgd.surrogate(step, losses, outer, at=-2, params=lambda w: w)
    >>> pool = jnp.array([0.0, 1.0, 2.0])
    >>> mg(0.0, jnp.ones(3), jnp.ones((10, 4)), pool).grad.round(1)  # more of 2 would lower it
    Array([ 0.3, -0.1, -0.4], dtype=float32)
    """
    functions = {"step": step, "losses": losses, "outer": outer, "params": params}
    for name, function in functions.items():
        if not callable(function):
            raise TypeError(f"{name} must be a function, got {function!r}")
    check_step(step)
    if chunk is not None and operator.index(chunk) < 1:
        raise ValueError(f"chunk={chunk} must be at least 1")
    if np.ndim(at) == 1:
        several = tuple(cast(Sequence[int], at))
        return _of_steps(step, losses, outer, several, params, chunk, options)
    one = operator.index(cast(int, at))
    return Surrogate(step, losses, outer, one, params, chunk, options)


def _of_steps(step: Any, losses: Any, outer: Any, at: tuple[int, ...], *rest: Any) -> Surrogate:
    from metagrad.mgd.surrogate_of_steps import SurrogateOfSteps

    if not at:
        raise ValueError("at=() names no step")
    return SurrogateOfSteps(step, losses, outer, tuple(map(operator.index, at)), *rest)


def request_of(mg: Any, losses: Callable, outer: Callable, params: Callable) -> Any:
    """What is compared when a descent goes on after a kill: the step, the outer value, the losses.

    It is traced and not run. The outer function is called with the pool in front of its own
    arguments, as a surrogate is.
    """

    def with_losses(state: Any, pool: Any, *outer_args: Any) -> Any:
        return outer(state, *outer_args) + 0 * jnp.sum(losses(params(state), pool))

    return dataclasses.replace(mg.request, wrt=("meta",), outer=with_losses)


def like_counts(gradient: jax.Array, counts: jax.Array) -> jax.Array:
    """The gradient in the dtype of the counts, if these are floats. Whole numbers would cut it."""
    return gradient.astype(counts.dtype) if is_float(counts) else gradient


def _in_chunks(function: Callable[[Any], jax.Array], pool: Any, chunk: int | None) -> jax.Array:
    """`function` of the pool, [n], in turn over chunks of it."""
    count = len(jax.tree.leaves(pool)[0])
    if chunk is None or chunk >= count:
        return function(pool)
    whole = count // chunk
    cut = lambda x: x[: whole * chunk].reshape(whole, chunk, *x.shape[1:])
    results = jax.lax.map(function, jax.tree.map(cut, pool)).reshape(-1)
    if whole * chunk == count:
        return results
    rest = function(jax.tree.map(lambda x: x[whole * chunk :], pool))
    return jnp.concatenate([results, rest])
