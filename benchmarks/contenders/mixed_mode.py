"""Inner gradients whose derivative is taken forward over reverse, by hand: `grad` and `value_and_grad` with JAX's arguments.

Kemaev et al. 2025, "Scalable Meta-Learning via Mixed-Mode Differentiation" (MixFlow-MG), arXiv 2505.00793. With g(p, q) the gradient of L in p, and v the
cotangent of g, symmetry of second derivatives turns the vector-Jacobian product into a Jacobian-vector product of a gradient:

    v^T dg/dp = d/de grad_p L(p + e v, q)        v^T dg/dq = d/de grad_q L(p + e v, q)        at e = 0

Where the loss has auxiliary outputs, their cotangents (and that of the value) are the tangent of the seed of the reverse pass, in the same product.

As it is written by hand, so it is limited: the loss takes (params, ..., batch), the batch is data without a cotangent, and all other arguments are floats.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

# The name under which a `jax.checkpoint` policy can save the gradients.
INNER_GRADIENT = "inner gradient"


def grad(loss: Callable) -> Callable:
    """`jax.grad(loss)` in its first argument."""
    return lambda *arguments: value_and_grad(loss)(*arguments)[1]


def value_and_grad(loss: Callable, has_aux: bool = False) -> Callable:
    """`jax.value_and_grad(loss, has_aux=has_aux)` in its first argument."""
    with_aux = loss if has_aux else lambda *arguments: (loss(*arguments), ())

    def primal(params, others, batch):
        (value, aux), gradient = jax.value_and_grad(with_aux, has_aux=True)(params, *others, batch)
        return value, aux, gradient

    def forward(params, others, batch):
        return primal(params, others, batch), (params, others, batch)

    def backward(residuals, cotangents):
        params, others, batch = residuals
        value_bar, aux_bar, tangent = cotangents

        def gradients(params, seed):
            _, pull_back = jax.vjp(lambda params, others: with_aux(params, *others, batch), params, others)
            return pull_back(seed)

        seed = jnp.ones_like(value_bar), jax.tree.map(jnp.zeros_like, aux_bar)
        _, (params_bar, others_bar) = jax.jvp(gradients, (params, seed), (tangent, (value_bar, aux_bar)))
        return params_bar, others_bar, None

    value_aux_gradient = jax.custom_vjp(primal)
    value_aux_gradient.defvjp(forward, backward)

    def of_arguments(params, *rest):
        *others, batch = rest
        value, aux, gradient = value_aux_gradient(params, tuple(others), batch)
        gradient = checkpoint_name(gradient, INNER_GRADIENT)
        return ((value, aux) if has_aux else value), gradient

    return of_arguments
