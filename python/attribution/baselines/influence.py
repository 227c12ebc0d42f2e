"""Influence functions, with conjugate gradients."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.sparse.linalg import cg

from metagrad.attribution.baselines.curvature import GaussNewton, curvature_of
from metagrad.attribution.baselines.products import as_scores, products, query_gradients
from metagrad.attribution.score_table import Scores

UNSOLVED = 0.1
"""A relative residual above this is warned of."""


def influence(
    losses: Callable,
    outcome: Callable,
    params: Any,
    examples: Any,
    *outer_args: Any,
    damping: float,
    curvature: str | GaussNewton = "hessian",
    iterations: int = 100,
) -> Scores:
    """Influence functions (Koh and Liang 2017, arXiv 1703.04730).

    The score of example i is -(1/n) g_q' (C + damping I)^-1 g_i: what a bit more weight would do if
    training were the minimisation of the mean loss, and were done. Conjugate gradients solve one
    system for each query; then each takes one derivative of all examples' losses.

    Args:
      losses: `losses(params, examples) -> [n]` or [n, L].
      outcome: `outcome(params, *outer_args)`, a scalar or a vector of Q.
      params: at the end of training.
      examples: of the training set, with a leading axis of length n. They are taken at once.
      outer_args: further arguments of the outcome.
      damping: what is added to the diagonal. With "hessian" it must be more than minus the lowest
        eigenvalue.
      curvature: C, of the mean loss: "hessian", "fisher" (empirical), or a `GaussNewton`.
      iterations: of conjugate gradients, at most.

    Returns:
      `Scores`, with the relative residual of each query in the metadata.

    Raises:
      ValueError: `curvature` is not one of the above, or damping is negative.

    Warns:
      RuntimeWarning: a system was not solved.
    """
    chosen = curvature_of(curvature)
    if damping < 0:
        raise ValueError(f"damping={damping!r} must not be negative")
    functions = (losses, outcome, chosen, iterations)
    values, outcomes, residuals = _influence(*functions, params, examples, outer_args, damping)
    residuals = np.asarray(residuals)
    if not (residuals <= UNSOLVED).all():
        warnings.warn(
            f"conjugate gradients left a relative residual of {residuals.max():.2g}. If the "
            "curvature is not positive definite, more damping helps, or a GaussNewton; else more "
            "iterations.",
            RuntimeWarning,
            stacklevel=2,
        )
    name = curvature if isinstance(curvature, str) else "gauss-newton"
    metadata = {"curvature": name, "damping": damping, "residuals": residuals.tolist()}
    return as_scores(values, outcomes, f"influence ({name})", metadata)


@jax.jit(static_argnums=(0, 1, 2, 3))
def _influence(losses, outcome, curvature, iterations, params, examples, outer_args, damping):
    outcomes, gradients = query_gradients(outcome, params, outer_args)
    product = curvature.product(losses, params, examples)

    def damped(direction):
        return jax.tree.map(lambda c, d: c + damping * d, product(direction), direction)

    def solve(gradient):
        solution, _ = cg(damped, gradient, maxiter=iterations)
        left = jax.tree.map(jnp.subtract, damped(solution), gradient)
        return solution, _norm(left) / _norm(gradient)

    solutions, residuals = jax.lax.map(solve, gradients)
    values = -products(losses, params, examples, solutions)
    return values / values[0].size, outcomes, residuals


def _norm(tree: Any) -> jax.Array:
    return jnp.sqrt(sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(tree)))
