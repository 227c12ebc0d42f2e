"""Training runs of weighted examples with Adam, and the mean loss on held-out examples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.models.model import OPTIMISER, Autodiff, Model


def weighted_run(
    name: str,
    description: str,
    params: Any,
    losses: Callable,
    examples: Any,
    held_out: Any,
    batch: int,
) -> Model:
    """A model whose state is (params, optimiser's state).

    Args:
      losses: `losses(params, inputs) -> f32[batch]`, one for each example.
      examples: inputs with a leading axis over all training examples.
      held_out: inputs on which the outer function takes the mean loss.
      batch: examples per step.
    """
    return _model(
        name,
        description,
        (params, OPTIMISER.init(params)),
        examples,
        held_out,
        batch,
        *weighted_step(losses, OPTIMISER),
    )


def weighted_step(
    losses: Callable, optimiser: optax.GradientTransformation
) -> tuple[Callable, Callable]:
    """(make_step, outer) of a model whose state is (params, optimiser's state).

    Args:
      losses: as of `weighted_run`.
      optimiser: of the training run.
    """

    def loss(params, weights, batch):
        inputs, index = batch
        return jnp.mean(weights[index] * losses(params, inputs))

    def make_step(autodiff: Autodiff):
        def step(state, weights, batch):
            params, moments = state
            gradient = autodiff.grad(loss)(params, weights, batch)
            updates, moments = optimiser.update(gradient, moments, params)
            return optax.apply_updates(params, updates), moments

        return step

    def outer(state, held_out):
        return jnp.mean(losses(state[0], held_out))

    return make_step, outer


def weighted_run_with_statistics(
    name: str,
    description: str,
    params: Any,
    statistics: Any,
    logits: Callable,
    examples: Any,
    held_out: Any,
    batch: int,
) -> Model:
    """A classifier with batch normalisation.

    Its state is (params, running statistics, optimiser's state). The inner gradient hands the
    statistics on as auxiliary output, and the outer function normalises with them, so the
    metagradient has a way through them as well.

    Args:
      logits: `logits(params, statistics, images, training)` returns (logits, statistics after this
          batch).
      examples, held_out: (images, labels).
    """
    cross_entropy = optax.softmax_cross_entropy_with_integer_labels

    def loss(params, statistics, weights, batch):
        (images, labels), index = batch
        scores, statistics = logits(params, statistics, images, training=True)
        return jnp.mean(weights[index] * cross_entropy(scores, labels)), statistics

    def make_step(autodiff: Autodiff):
        def step(state, weights, batch):
            params, statistics, optimiser = state
            (_, statistics), gradient = autodiff.value_and_grad(loss, has_aux=True)(
                params, statistics, weights, batch
            )
            updates, optimiser = OPTIMISER.update(gradient, optimiser, params)
            return optax.apply_updates(params, updates), statistics, optimiser

        return step

    def outer(state, held_out):
        params, statistics, _ = state
        images, labels = held_out
        scores, _ = logits(params, statistics, images, training=False)
        return cross_entropy(scores, labels).mean()

    state0 = params, statistics, OPTIMISER.init(params)
    return _model(name, description, state0, examples, held_out, batch, make_step, outer)


def _model(name, description, state0, examples, held_out, batch, make_step, outer) -> Model:
    count = len(jax.tree.leaves(examples)[0])

    def draw_batches(steps):
        index = np.random.default_rng(1).integers(0, count, (steps, batch), np.int32)
        return jax.tree.map(lambda x: x[index], examples), index

    return Model(
        name=name,
        description=description,
        state0=jax.tree.map(np.asarray, state0),
        meta=np.ones(count, np.float32),
        draw_batches=draw_batches,
        held_out=held_out,
        make_step=make_step,
        outer=outer,
    )
