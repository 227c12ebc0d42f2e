"""Inner gradients whose derivative is taken forward over reverse, by hand.

It has `grad` and `value_and_grad` with JAX's arguments.

Kemaev et al. 2025, "Scalable Meta-Learning via Mixed-Mode Differentiation" (MixFlow-MG), arXiv
2505.00793. With g(p, q) the gradient of L in p, and v the cotangent of g, symmetry of second
derivatives turns the vector-Jacobian product into a Jacobian-vector product of a gradient:

    v^T dg/dp = d/de grad_p L(p + e v, q)     v^T dg/dq = d/de grad_q L(p + e v, q)     at e = 0

Where the loss has auxiliary outputs, their cotangents (and that of the value) are the tangent of
the seed of the reverse pass, in the same product.

It has the limits of code that is written by hand: the loss takes (params, ..., batch), the batch is
data without a cotangent, and all other arguments are floats.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

# The name under which a `jax.checkpoint` policy can save the gradients.
INNER_GRADIENT = "inner gradient"


def grad(loss: Callable) -> Callable:
    """`jax.grad(loss)` in its first argument."""
    return _second(
        _differentiable(lambda *arguments: ((), jax.grad(loss)(*arguments)), _product(loss))
    )


def value_and_grad(loss: Callable, has_aux: bool = False) -> Callable:
    """`jax.value_and_grad(loss, has_aux=has_aux)` in its first argument."""
    return _differentiable(
        jax.value_and_grad(loss, has_aux=has_aux), _product_and_outputs(loss, has_aux)
    )


class ComputedGradient:
    """`grad` and `value_and_grad` for a step whose one gradient has been computed already.

    The derivative is that of the gradient all the same.

    Args:
      outputs: the loss's value, or (value, aux); not read by `grad`.
      gradient: the gradient.
    """

    def __init__(self, outputs: Any, gradient: Any):
        self._outputs, self._gradient = outputs, gradient

    def grad(self, loss: Callable) -> Callable:
        return _second(_differentiable(lambda *_: ((), self._gradient), _product(loss)))

    def value_and_grad(self, loss: Callable, has_aux: bool = False) -> Callable:
        return _differentiable(
            lambda *_: (self._outputs, self._gradient), _product_and_outputs(loss, has_aux)
        )


def _differentiable(compute: Callable, product: Callable) -> Callable:
    """`compute` with `product` for its VJP.

    The functions are `compute(params, *others, batch) -> (outputs, gradient)` and
    `product(params, others, batch, outputs_bar, tangent)`.
    """

    @jax.custom_vjp
    def differentiable(params, others, batch):
        return compute(params, *others, batch)

    def backward(residuals, cotangents):
        return *product(*residuals, *cotangents), None

    differentiable.defvjp(lambda *operands: (differentiable(*operands), operands), backward)

    def of_arguments(params, *rest):
        *others, batch = rest
        outputs, gradient = differentiable(params, tuple(others), batch)
        return outputs, checkpoint_name(gradient, INNER_GRADIENT)

    return of_arguments


def _second(pair: Callable) -> Callable:
    return lambda *arguments: pair(*arguments)[1]


def _product(loss: Callable) -> Callable:
    """(cotangent of params, of the others) from that of the gradient."""

    def product(params, others, batch, _, tangent):
        gradients = lambda params: jax.grad(
            lambda params, others: loss(params, *others, batch), (0, 1)
        )(params, others)
        return jax.jvp(gradients, (params,), (tangent,))[1]

    return product


def _product_and_outputs(loss: Callable, has_aux: bool) -> Callable:
    """The same, where the value and the auxiliary outputs have cotangents too.

    These are the tangents of the seeds.
    """

    def product(params, others, batch, outputs_bar, tangent):
        def gradients(params, seed):
            return jax.vjp(lambda params, others: loss(params, *others, batch), params, others)[1](
                seed
            )

        value_bar, aux_bar = outputs_bar if has_aux else (outputs_bar, ())
        ones, zeros = jnp.ones_like(value_bar), jax.tree.map(jnp.zeros_like, aux_bar)
        seed = (ones, zeros) if has_aux else ones
        return jax.jvp(gradients, (params, seed), (tangent, outputs_bar))[1]

    return product
