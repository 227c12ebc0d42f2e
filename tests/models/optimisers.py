"""The optimisers of the matrix: optax's, as users write them, and a Shampoo by its paper."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from optax import contrib


class ShampooState(NamedTuple):
    statistics: Any


def shampoo(learning_rate, root, epsilon=1e-2):
    """Shampoo (Gupta, Koren, Singer 2018, Algorithm 1).

    A matrix is multiplied by the inverse fourth roots of the sums of g g^T and g^T g, a vector by
    an inverse square root, as Adagrad does.

    Args:
      root: `root(symmetric positive definite matrix)`, its inverse fourth root.
    """

    def init(params):
        return ShampooState(
            jax.tree.map(
                lambda p: (
                    [epsilon * jnp.eye(n, dtype=p.dtype) for n in p.shape]
                    if p.ndim == 2
                    else [jnp.full_like(p, epsilon)]
                ),
                params,
            )
        )

    def update(updates, state, params=None):
        def add(g, sums):
            return [sums[0] + g @ g.T, sums[1] + g.T @ g] if g.ndim == 2 else [sums[0] + g**2]

        def precondition(g, sums):
            return -learning_rate * (
                root(sums[0]) @ g @ root(sums[1]) if g.ndim == 2 else g / jnp.sqrt(sums[0])
            )

        statistics = jax.tree.map(add, updates, state.statistics)
        return jax.tree.map(precondition, updates, statistics), ShampooState(statistics)

    return optax.GradientTransformation(init, update)


def by_eigenvalues(matrix):
    values, vectors = jnp.linalg.eigh(matrix)
    return (vectors * values**-0.25) @ vectors.T


def by_newton(matrix, iterations=24):
    """The coupled Newton iteration of Shampoo's implementations, with a fixed number of turns.

    Higham, Functions of Matrices, equation 7.18.
    """
    identity = jnp.eye(len(matrix), dtype=matrix.dtype)
    z = 5 / (2 * jnp.linalg.norm(matrix))

    def turn(_, pair):
        m, h = pair
        factor = (5 * identity - m) / 4
        squared = factor @ factor
        return squared @ squared @ m, h @ factor

    return jax.lax.fori_loop(0, iterations, turn, (matrix * z, identity * z**0.25))[1]


def labels(params):
    """ "kernel" for matrices, "rest" for the others."""
    return jax.tree.map(lambda p: "kernel" if p.ndim > 1 else "rest", params)


def kernels(params):
    return jax.tree.map(lambda p: p.ndim > 1, params)


ADAM = {"eps_root": 1e-8}

OPTIMISERS = {
    "sgd": lambda: optax.sgd(0.1),
    "momentum": lambda: optax.sgd(0.1, momentum=0.9),
    "nesterov": lambda: optax.sgd(0.1, momentum=0.9, nesterov=True),
    "adam": lambda: optax.adam(0.02, **ADAM),
    "adamw": lambda: optax.adamw(0.02, weight_decay=0.1, **ADAM),
    "nadam": lambda: optax.nadam(0.02, **ADAM),
    "adabelief": lambda: optax.adabelief(0.02, eps_root=1e-8),
    "lion": lambda: optax.lion(0.01, weight_decay=0.1),
    "rmsprop": lambda: optax.rmsprop(0.02, eps=1e-6),
    "adagrad": lambda: optax.adagrad(0.1, eps=1e-6),
    "adafactor": lambda: optax.adafactor(0.1, min_dim_size_to_factor=2),
    "adafactor, momentum": lambda: optax.adafactor(
        0.1,
        min_dim_size_to_factor=2,
        momentum=0.9,
        dtype_momentum=jnp.result_type(float),
        weight_decay_rate=0.01,
    ),
    "lamb": lambda: optax.lamb(0.02, weight_decay=0.1, **ADAM),
    "lars": lambda: optax.lars(0.1, weight_decay=0.01),
    "muon": lambda: contrib.muon(0.05, adam_eps_root=1e-8),
    "shampoo, eigh": lambda: shampoo(0.1, by_eigenvalues),
    "shampoo, newton": lambda: shampoo(0.1, by_newton),
    "clip_by_global_norm": lambda: optax.chain(optax.clip_by_global_norm(0.3), optax.sgd(0.1)),
    "clip, clip_by_block_rms": lambda: optax.chain(
        optax.clip(0.2), optax.clip_by_block_rms(0.05), optax.sgd(0.5)
    ),
    "adaptive_grad_clip": lambda: optax.chain(optax.adaptive_grad_clip(0.05), optax.sgd(0.5)),
    "warmup_cosine": lambda: optax.adam(
        optax.warmup_cosine_decay_schedule(0.01, 0.1, 2, 5), **ADAM
    ),
    "piecewise schedule": lambda: optax.sgd(
        optax.join_schedules(
            [optax.linear_schedule(0.0, 0.1, 2), optax.exponential_decay(0.1, 1, 0.5)], [2]
        ),
        momentum=0.9,
    ),
    "inject_hyperparams": lambda: optax.inject_hyperparams(optax.adamw)(
        0.02, weight_decay=0.1, **ADAM
    ),
    "multi_transform": lambda: optax.multi_transform(
        {"kernel": optax.adam(0.02, **ADAM), "rest": optax.sgd(0.1)}, labels
    ),
    "weight decay mask": lambda: optax.adamw(0.02, weight_decay=0.1, mask=kernels, **ADAM),
    "MultiSteps": lambda: optax.MultiSteps(
        optax.adam(0.02, **ADAM), every_k_schedule=2, accumulator_dtype=jnp.result_type(float)
    ),
    "ema": lambda: optax.chain(optax.ema(0.9), optax.sgd(0.1)),
    "sam": lambda: contrib.sam(
        optax.sgd(0.1, momentum=0.9), optax.chain(contrib.normalize(), optax.sgd(0.05))
    ),
    "sam, opaque": lambda: contrib.sam(
        optax.sgd(0.1), optax.chain(contrib.normalize(), optax.sgd(0.05)), opaque_mode=True
    ),
    "schedule_free": lambda: contrib.schedule_free_sgd(0.1),
    "prodigy": lambda: contrib.prodigy(0.5),
}
