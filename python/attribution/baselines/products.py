"""Products of the gradients of single examples with directions in the space of parameters.

The product of an example's gradient with a direction is the derivative of its loss along the
direction. Forward mode computes it without the gradient: for Q directions, the price of about 2 Q
evaluations of the loss of each example, and no gradient is ever held.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metagrad.attribution.score_table import Scores
from metagrad.attribution.weights_leaf import as_numpy

AT_ONCE = 64
"""Examples that are differentiated side by side."""


def query_gradients(outcome: Callable, params: Any, outer_args: tuple) -> tuple[jax.Array, Any]:
    """(outcomes [Q], their gradients with a leading axis of length Q)."""
    flat = lambda params: jnp.ravel(outcome(params, *outer_args))
    return flat(params), jax.jacrev(flat)(params)


def of_each_example(losses: Callable, examples: Any, function: Callable) -> Any:
    """`function(loss)` of each example's loss as a function of the parameters, stacked: [n, ...].

    A loss is a scalar, or [L] of tokens.
    """

    def of_one(example):
        alone = jax.tree.map(lambda x: x[None], example)
        return function(lambda params: losses(params, alone)[0])

    count = len(jax.tree.leaves(examples)[0])
    return jax.lax.map(of_one, examples, batch_size=min(AT_ONCE, count))


def products(losses: Callable, params: Any, examples: Any, directions: Any) -> jax.Array:
    """The product of each example's gradient with each direction: [Q, n] or [Q, n, L].

    Args:
      directions: like the parameters, with a leading axis of length Q.
    """

    def of_all_directions(loss):
        along = lambda direction: jax.jvp(loss, (params,), (direction,))[1]
        return jax.vmap(along)(directions)

    return jnp.moveaxis(of_each_example(losses, examples, of_all_directions), 1, 0)


def as_scores(values: Any, outcomes: Any, method: str, metadata: dict[str, Any]) -> Scores:
    """Scores at weights of one."""
    values = as_numpy(values)
    weights = np.ones(values.shape[1:], values.dtype)
    return Scores(values, as_numpy(outcomes), weights, method, metadata)
