"""TracIn: products of gradients, summed over checkpoints of the run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metagrad.attribution.baselines.products import as_scores, products, query_gradients
from metagrad.attribution.score_table import Scores


def tracin(
    losses: Callable,
    outcome: Callable,
    checkpoints: Any,
    rates: Any,
    examples: Any,
    *outer_args: Any,
) -> Scores:
    """TracInCP (Pruthi et al. 2020, arXiv 2002.08484): -sum over k of rate_k times the product of
    the example's gradient with the outcome's, both at checkpoint k.

    Args:
      losses: `losses(params, examples) -> [n]` or [n, L].
      outcome: `outcome(params, *outer_args)`, a scalar or a vector of Q.
      checkpoints: the parameters on the way, each leaf with a leading axis of length K.
        `WeightedTraining.train(..., checkpoints=K)` gives them.
      rates: the learning rate at each checkpoint, [K] or one number for all.
      examples: of the training set, with a leading axis of length n.
      outer_args: further arguments of the outcome.

    Returns:
      `Scores`, of plain gradients: an optimiser's scaling and momentum are not in them. Only their
      order means something, since checkpoints stand for the steps between them.

    Raises:
      ValueError: checkpoints is a list of parameters that are not stacked, or rates does not have
        one entry for each checkpoint.
    """
    if isinstance(checkpoints, (list, tuple)) and len(checkpoints) == np.size(rates) > 1:
        structures = {jax.tree.structure(each) for each in checkpoints}
        if len(structures) == 1 and not jax.tree_util.all_leaves(checkpoints):
            raise ValueError(
                "checkpoints is a list of parameters, and must be one pytree of stacked arrays: "
                "jax.tree.map(lambda *rows: jnp.stack(rows), *checkpoints)"
            )
    count = len(jax.tree.leaves(checkpoints)[0])
    rates = jnp.asarray(rates, float)
    if rates.shape not in ((), (count,)):
        raise ValueError(
            f"rates has the shape {rates.shape}; for {count} checkpoints it must be [{count}], or "
            "one number for all"
        )
    rates = jnp.broadcast_to(rates, (count,))
    values, outcomes = _tracin(losses, outcome, checkpoints, rates, examples, outer_args)
    return as_scores(values, outcomes, "tracin", {"checkpoints": count})


@jax.jit(static_argnums=(0, 1))
def _tracin(losses, outcome, checkpoints, rates, examples, outer_args):
    def at(checkpoint):
        params, rate = checkpoint
        outcomes, gradients = query_gradients(outcome, params, outer_args)
        return -rate * products(losses, params, examples, gradients), outcomes

    values, outcomes = jax.lax.map(at, (checkpoints, rates))
    return values.sum(0), outcomes[-1]
