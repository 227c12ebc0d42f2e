"""What a surrogate adds to the loss of a step in the place of the losses of a pool.

A step that is differentiated with the losses of the whole pool in it would hold all of them. So
something smaller is added, a function of the parameters that is zero, and whose value and slope are
arguments. The derivatives with respect to the two say what any loss, if it were added, would do to
first order: value and slope of the loss itself are what a step has of it. That is so if the step
evaluates its loss at `params(state)` alone, and takes first derivatives. Two further arguments have
derivatives that are zero then, and else are not.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metagrad.frontend.dtypes import is_float

_ROUNDINGS = 4
"""Parameters that a step has cast to its precision are the same up to so many epsilons."""


class Added(NamedTuple):
    """Arguments of `added_loss`, or derivatives with respect to them.

    Attributes:
      slope: like the parameters, what is added to the gradient.
      rest: [3]: what is added to the value; to the loss at other parameters; to the curvature.
    """

    slope: Any
    rest: jax.Array


def no_addition(params: Any) -> Added:
    """Zeros."""
    dtype = jnp.promote_types(_dtype(params), jnp.float32)
    return Added(jax.tree.map(jnp.zeros_like, params), jnp.zeros(3, dtype))


def added_loss(added: Added, expected: Any, params: Any) -> jax.Array:
    """The loss that is added, a scalar in the dtype of the parameters.

    Args:
      expected: `params(state)`.
      params: what the step calls it with.

    Raises:
      ValueError: they differ in structure or shape.
    """
    _check_alike(expected, params)
    value, elsewhere, curvature = added.rest.astype(_dtype(params))
    total = value
    leaves = map(jax.tree.leaves, (added.slope, expected, params))
    for slope, base, leaf in zip(*leaves, strict=True):
        if not is_float(leaf):
            continue
        base = base.astype(leaf.dtype)
        # The value is zero at the parameters that are expected, whatever the slope is.
        total = total + jnp.sum(slope * (leaf - base))
        is_other = _differ(leaf, base).astype(leaf.dtype)
        total = total + elsewhere * is_other * (1 + jnp.sum(leaf))
        still = leaf - jax.lax.stop_gradient(leaf)
        total = total + curvature / 2 * jnp.sum(still * still)
    return total


def check_use(derivative: Added) -> None:
    """Checks what a step did with the loss that was added.

    Raises:
      ValueError: the derivatives with respect to slope and value do not say all.
    """
    # NaN, of a training that diverged, is not above zero. It is for others to say.
    _, elsewhere, curvature = np.moveaxis(np.abs(derivative.rest), -1, 0)
    if (elsewhere > 0).any():
        raise ValueError(
            "the step calls extra with other parameters than params(state), so this gradient would "
            "be wrong. Give `surrogate` the parameters that the loss is called with. (A step that "
            "evaluates its loss at several places, as sharpness-aware minimisation or a line "
            "search does, has no such surrogate.)"
        )
    if (curvature > 0).any():
        raise ValueError(
            "the step takes second derivatives of the loss that extra is added to, so this "
            "gradient would be wrong. Add extra to the loss whose first derivative is taken, only."
        )


def _check_alike(expected: Any, params: Any) -> None:
    structures: list[Any] = [jax.tree.structure(tree) for tree in (params, expected)]
    if structures[0] != structures[1]:
        raise ValueError(
            f"extra was called with {structures[0]}, and params(state) is {structures[1]}: give "
            "`surrogate` the parameters that the loss has"
        )
    paths = jax.tree_util.tree_leaves_with_path(expected)
    for (path, base), leaf in zip(paths, jax.tree.leaves(params)):
        if jnp.shape(base) != jnp.shape(leaf):
            where = jax.tree_util.keystr(path)
            raise ValueError(
                f"extra was called with shape {jnp.shape(leaf)} for params{where}, and in "
                f"params(state) it is {jnp.shape(base)}: give `surrogate` the parameters that the "
                "loss has"
            )


def _differ(leaf: jax.Array, base: jax.Array) -> jax.Array:
    """Whether they differ by more than a cast does."""
    tolerance = _ROUNDINGS * jnp.finfo(leaf.dtype).eps * jnp.max(jnp.abs(base), initial=0)
    return jnp.any(jnp.abs(leaf - base) > tolerance)


def _dtype(params: Any) -> Any:
    return jnp.result_type(*(leaf.dtype for leaf in jax.tree.leaves(params) if is_float(leaf)))
