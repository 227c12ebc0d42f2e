"""Products with the curvature of the training loss, for influence functions."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Product = Callable[[Any], Any]
"""From a direction (like the parameters) to the product of the curvature with it."""


@dataclasses.dataclass(frozen=True)
class GaussNewton:
    """The generalised Gauss-Newton matrix J' H J of the mean loss (Martens 2020, arXiv 1412.1193).

    J is the derivative of the network's outputs, H the Hessian of the criterion in the outputs. It
    is positive semidefinite where the criterion is convex, as cross entropy is.

    Attributes:
      network: `network(params, examples) -> outputs`.
      criterion: `criterion(outputs, examples) -> [n]` or [n, L], the losses.
    """

    network: Callable[[Any, Any], Any]
    criterion: Callable[[Any, Any], jax.Array]

    def product(self, losses: Callable, params: Any, examples: Any) -> Product:
        outputs, pull_back = jax.vjp(lambda p: self.network(p, examples), params)
        gradient = jax.grad(lambda outputs: jnp.mean(self.criterion(outputs, examples)))

        def product(direction):
            moved = jax.jvp(lambda p: self.network(p, examples), (params,), (direction,))[1]
            (curved,) = pull_back(jax.jvp(gradient, (outputs,), (moved,))[1])
            return curved

        return product


@dataclasses.dataclass(frozen=True)
class Hessian:
    """The Hessian of the mean loss, by forward over reverse mode. It need not be definite."""

    def product(self, losses: Callable, params: Any, examples: Any) -> Product:
        gradient = jax.grad(lambda p: jnp.mean(losses(p, examples)))
        return lambda direction: jax.jvp(gradient, (params,), (direction,))[1]


@dataclasses.dataclass(frozen=True)
class Fisher:
    """The empirical Fisher matrix: the mean of the outer products of examples' gradients."""

    def product(self, losses: Callable, params: Any, examples: Any) -> Product:
        each, pull_back = jax.vjp(lambda p: losses(p, examples), params)

        def product(direction):
            along = jax.jvp(lambda p: losses(p, examples), (params,), (direction,))[1]
            return pull_back(along / each.size)[0]

        return product


CURVATURES = {"hessian": Hessian(), "fisher": Fisher()}


def curvature_of(curvature: Any) -> Any:
    """The curvature that the option names.

    Raises:
      ValueError: it names none.
    """
    if isinstance(curvature, GaussNewton):
        return curvature
    if not isinstance(curvature, str) or curvature not in CURVATURES:
        names = ", ".join(map(repr, CURVATURES))
        raise ValueError(f"curvature={curvature!r} is none of {names} and not a GaussNewton")
    return CURVATURES[curvature]
