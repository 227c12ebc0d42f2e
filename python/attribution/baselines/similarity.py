"""Gradient similarity at the end of training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from metagrad.attribution.baselines.products import (
    as_scores,
    of_each_example,
    products,
    query_gradients,
)
from metagrad.attribution.score_table import Scores


def gradient_similarity(
    losses: Callable,
    outcome: Callable,
    params: Any,
    examples: Any,
    *outer_args: Any,
    cosine: bool = True,
) -> Scores:
    """Minus the cosine, or the product, of an example's gradient with that of the outcome.

    It is what TracIn is at the last checkpoint alone; with the cosine, examples with large
    gradients do not count for more (Charpiat et al. 2019, "Input Similarity from the Neural Network
    Perspective"; LESS, Xia et al. 2024, takes it with Adam's directions).

    Args:
      losses: `losses(params, examples) -> [n]` or [n, L].
      outcome: `outcome(params, *outer_args)`, a scalar or a vector of Q.
      params: at the end of training.
      examples: of the training set, with a leading axis of length n.
      outer_args: further arguments of the outcome.
      cosine: whether products are divided by the norms.

    Returns:
      `Scores`. They have a scale of their own: only their order means something.
    """
    values, outcomes = _similarity(losses, outcome, cosine, params, examples, outer_args)
    name = "gradient cosine" if cosine else "gradient product"
    return as_scores(values, outcomes, name, {})


@jax.jit(static_argnums=(0, 1, 2))
def _similarity(losses, outcome, cosine, params, examples, outer_args):
    outcomes, gradients = query_gradients(outcome, params, outer_args)
    values = -products(losses, params, examples, gradients)
    if not cosine:
        return values, outcomes
    of_examples = jnp.sqrt(of_each_example(losses, examples, lambda loss: _squares(loss, params)))
    of_queries = jnp.sqrt(jax.vmap(_sum_of_squares)(gradients))
    of_queries = of_queries.reshape(-1, *(1,) * of_examples.ndim)
    norms = of_queries * of_examples
    return jnp.where(norms > 0, values / jnp.where(norms > 0, norms, 1), 0), outcomes


def _squares(loss: Callable, params: Any) -> jax.Array:
    """The squared norm of the gradient of a loss; of each token's, if it has some."""
    gradients = jax.jacrev(loss)(params)
    return (
        jax.vmap(_sum_of_squares)(gradients) if loss(params).shape else _sum_of_squares(gradients)
    )


def _sum_of_squares(tree: Any) -> jax.Array:
    return jnp.sum(jnp.stack([jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(tree)]))
