"""`metagrad.attribution.scores`: exact scores from one metagradient."""

from __future__ import annotations

import time
from typing import Any

import jax
import numpy as np

from metagrad.api.metagradient import Metagradient
from metagrad.attribution.score_table import Scores
from metagrad.attribution.weights_leaf import as_numpy, check_metagradient, find_weights


def scores(
    mg: Metagradient,
    state0: Any,
    meta: Any,
    batches: Any,
    *outer_args: Any,
    weights: str | None = None,
) -> Scores:
    """The score of every training example, or token, for every query, from one replay.

    A score is the derivative of what the run ends up with, the outer value, with respect to the
    weight of the example: exact, through all of training (Ilyas and Engstrom 2025, "MAGIC",
    arXiv 2504.16430). So leaving example i out changes outcome q by about -values[q, i].

    The step reads weights from meta and multiplies the losses of examples with them. If the outer
    function returns a vector of Q values, each is a query; one run and one replay serve all. For a
    step without weights see `WeightedTraining`.

    Args:
      mg: `train_step.metagradient(outer)`, with any schedule and options.
      state0, meta, batches, outer_args: what `mg` is called with. The weights in meta are ones,
        usually.
      weights: which leaf of meta holds the weights, [n] or [n, L]: its last name, "weight", or its
        path, "meta['loss']['weight']". None: the only float array of meta that is not a scalar.

    Returns:
      `Scores`, with values [Q, n] or [Q, n, L]; Q is 1 for a scalar outcome.

    Raises:
      TypeError: `mg` is not a metagradient.
      ValueError: `mg` is not with respect to meta, or `weights` names no array of weights.
      FloatingPointError: a score is not finite.

    >>> import jax.numpy as jnp, metagrad
    >>> step = metagrad.compile(lambda w, weight, i: w - 0.1 * weight[i] * (w - i))
    >>> mg = step.metagradient(lambda w: w)
    >>> table = metagrad.attribution.scores(mg, 0.0, jnp.ones(3), jnp.array([0, 1, 2, 0, 1, 2]))
    >>> table.values.shape, table.top(1, order="raises")[0][0]
    ((1, 3), 2)
    """
    check_metagradient(mg, "scores")
    leaf = find_weights(meta, weights)
    began = time.perf_counter()
    result = jax.block_until_ready(mg(state0, meta, batches, *outer_args))
    seconds = time.perf_counter() - began
    value = result.value[0] if mg.request.has_aux else result.value
    of_meta = result.grad if mg.request.single else result.grad[mg.request.wrt.index("meta")]
    table = _table(value, leaf.of(of_meta), leaf.of(meta))
    _check_finite(table[0], leaf.path)
    metadata = {
        "weights": leaf.path,
        "step": mg.request.step_name,
        "outer": mg.request.outer_name,
        "seconds": seconds,  # compilation among them, in the first call
    }
    return Scores(*table, method="metagradient", metadata=metadata)


def _table(value: Any, gradient: Any, weights: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(values, outcomes, weights), with an axis of queries."""
    value, gradient, weights = map(as_numpy, (value, gradient, weights))
    return gradient.reshape(-1, *weights.shape), value.reshape(-1), weights


def _check_finite(values: np.ndarray, path: str) -> None:
    faulty = np.flatnonzero(~np.isfinite(values.reshape(len(values), -1)).all(1)).tolist()
    if faulty:
        raise FloatingPointError(
            f"the gradient of {path} has a NaN or infinity in the queries {faulty[:8]}. "
            "metagradient(check_nans=True) says where it comes from."
        )
