"""One step of the descent: the mean over seeds, the optimiser's update, the projection."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from metagrad.mgd.variables import Variables


class Step(NamedTuple):
    """What an update makes.

    Attributes:
      floats: the new floating-point leaves, before the projection.
      optimizer_state: the optimiser's new state.
      value: the mean value of the round.
      gradient: the mean gradient.
      gradient_norm: its Euclidean norm over all leaves.
      are_finite: for each leaf, whether its gradient is finite.
    """

    floats: Any
    optimizer_state: Any
    value: jax.Array
    gradient: Any
    gradient_norm: jax.Array
    are_finite: jax.Array


class Updates:
    """The updates of one optimiser, compiled once.

    Args:
      optimizer: an `optax.GradientTransformation`.
      projection: called with the whole tree after each step; None leaves it.
      variables: what is optimised.
      seeds: over how many values and gradients a sum is.
    """

    def __init__(
        self, optimizer: Any, projection: Callable | None, variables: Variables, seeds: int
    ):
        import optax

        self._optimizer = _with_extra_args(optimizer)
        self._apply = optax.apply_updates
        self._projection, self._variables, self._seeds = projection, variables, seeds
        self.step = jax.jit(self._step)

    def init(self, floats: Any) -> Any:
        return self._optimizer.init(floats)

    def _step(self, floats: Any, optimizer_state: Any, value: Any, gradient: Any) -> Step:
        if self._seeds > 1:
            value = value / self._seeds
            gradient = jax.tree.map(lambda leaf: leaf / self._seeds, gradient)
        changes, optimizer_state = self._optimizer.update(
            gradient, optimizer_state, floats, value=value, grad=gradient
        )
        return Step(
            self._apply(floats, changes),
            optimizer_state,
            value,
            gradient,
            norm(gradient),
            jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient)]),
        )

    def projected(self, floats: Any) -> Any:
        """The floating-point leaves after the projection, which sees and returns the whole tree.

        Raises:
          TypeError, ValueError: it returned another structure or shape.
        """
        if self._projection is None:
            return floats
        whole = self._projection(self._variables.merged(floats))
        try:
            kept = self._variables.of(whole)
        except ValueError as error:
            raise TypeError(f"projection returned another structure: {error}") from None
        return self._variables.checked(kept, "projection")


def _with_extra_args(optimizer: Any) -> Any:
    """An optimiser whose `update` may be passed `value` and `grad`.

    `optax.MultiSteps` passes them on, but is no `GradientTransformation` of optax's.
    """
    import optax

    if isinstance(optimizer, optax.MultiSteps):
        optimizer = optax.GradientTransformationExtraArgs(optimizer.init, optimizer.update)
    return optax.with_extra_args_support(optimizer)


@jax.jit
def add(value: Any, gradient: Any, more_value: Any, more_gradient: Any) -> tuple[Any, Any]:
    return value + more_value, jax.tree.map(jnp.add, gradient, more_gradient)


@jax.jit
def norm(tree: Any) -> jax.Array:
    """The Euclidean norm over all leaves, in at least float32."""
    squares = [
        jnp.sum(jnp.square(leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32))))
        for leaf in jax.tree.leaves(tree)
    ]
    return jnp.sqrt(functools.reduce(jnp.add, squares))


@jax.jit
def distance(after: Any, before: Any) -> jax.Array:
    """The Euclidean norm of a difference."""
    return norm(jax.tree.map(jnp.subtract, after, before))
