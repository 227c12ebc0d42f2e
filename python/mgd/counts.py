"""`metagrad.mgd.integer_counts`: the stochastic update of how often each example is used."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from metagrad.mgd import options


class IntegerCountsState(NamedTuple):
    """The state of `integer_counts`.

    Attributes:
      updates: int32, how many there have been.
      key: of the draws to come.
    """

    updates: jax.Array
    key: jax.Array


def integer_counts(probability: float | Callable[[jax.Array], Any] = 0.1, *, key: Any = 0) -> Any:
    """The stochastic integer update of counts, as an optax transformation.

        c <- max(0, c - sign(g) * m),    m ~ Bernoulli(probability), for each entry

    (Engstrom et al. 2025, arXiv 2503.13751). Counts are integers, held as floats: the
    numbers of times that each example is in the training set. A count moves by one, or stays; where
    its gradient is zero it stays.

    Args:
      probability: of a move, from 0 to 1; or a function of the number of updates so far, as
        optax's schedules are.
      key: an integer or a key of `jax.random`. The draws depend on it alone.

    Returns:
      An `optax.GradientTransformation`, whose `update` needs the counts as `params`.

    Raises:
      TypeError, ValueError: an argument is not one of the above.

    >>> import jax.numpy as jnp, metagrad
    >>> update = metagrad.mgd.integer_counts(1.0)
    >>> counts = jnp.array([1.0, 0.0, 2.0, 1.0])
    >>> gradient = jnp.array([0.3, 4.0, -0.1, 0.0])
    >>> changes, state = update.update(gradient, update.init(counts), counts)
    >>> counts + changes
    Array([0., 0., 3., 1.], dtype=float32)
    """
    import optax

    if not callable(probability) and not 0 <= probability <= 1:
        raise ValueError(f"probability={probability} is not between 0 and 1")
    first_key = options.as_key(key)

    def init(params: Any) -> IntegerCountsState:
        del params
        return IntegerCountsState(jnp.zeros((), jnp.int32), first_key)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, IntegerCountsState]:
        if params is None:
            raise ValueError(
                "integer_counts needs the counts: update(gradient, state, params=counts)"
            )
        chance = probability(state.updates) if callable(probability) else probability
        next_key, own_key = jax.random.split(state.key)
        gradients = jax.tree.leaves(updates)
        keys = jax.random.split(own_key, len(gradients))
        changes = [
            _change(gradient, count, jax.random.bernoulli(leaf_key, chance, count.shape))
            for gradient, count, leaf_key in zip(gradients, jax.tree.leaves(params), keys)
        ]
        new = IntegerCountsState(state.updates + 1, next_key)
        return jax.tree.unflatten(jax.tree.structure(updates), changes), new

    return optax.GradientTransformation(init, update)


def _change(gradient: jax.Array, count: jax.Array, moves: jax.Array) -> jax.Array:
    new = jnp.maximum(count - jnp.sign(gradient).astype(count.dtype) * moves, 0)
    return new - count
