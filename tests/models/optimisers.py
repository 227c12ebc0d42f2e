"""The optimisers of the matrix: optax's, as users write them, and a Shampoo by its paper."""

import jax
import jax.numpy as jnp
import optax
from optax import contrib

from benchmarks.models.preconditioners import by_eigenvalues, by_newton, shampoo


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
