"""A multilayer perceptron, 784-256-256-10 with tanh, batches of 128: most of a step is three matrix products and Adam's traffic."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.models.model import OPTIMISER, Model

WIDTHS = (784, 256, 256, 10)
BATCH = 128
EXAMPLES = 2048


def logits(params, x):
    *hidden, last = params
    for layer in hidden:
        x = jnp.tanh(x @ layer["w"] + layer["b"])
    return x @ last["w"] + last["b"]


def loss(params, weights, batch):
    """Cross entropy, each example weighted by its entry of `weights`."""
    (x, labels), index = batch
    losses = optax.softmax_cross_entropy_with_integer_labels(logits(params, x), labels)
    return jnp.mean(weights[index] * losses)


def make_step(autodiff):
    def step(state, weights, batch):
        params, optimiser = state
        gradient = autodiff.grad(loss)(params, weights, batch)
        updates, optimiser = OPTIMISER.update(gradient, optimiser, params)
        return optax.apply_updates(params, updates), optimiser

    return step


def outer(state, held_out):
    params, _ = state
    x, labels = held_out
    return optax.softmax_cross_entropy_with_integer_labels(logits(params, x), labels).mean()


def model() -> Model:
    rng = np.random.default_rng(0)
    normal = lambda *shape: rng.standard_normal(shape, np.float32)
    params = [
        {"w": normal(fan_in, fan_out) / np.float32(np.sqrt(fan_in)), "b": np.zeros(fan_out, np.float32)}
        for fan_in, fan_out in zip(WIDTHS[:-1], WIDTHS[1:])
    ]
    # Labels of a linear teacher, blurred, so that there is something to learn and examples that mislead.
    teacher = normal(WIDTHS[0], WIDTHS[-1]) / np.float32(np.sqrt(WIDTHS[0]))
    label = lambda x: np.argmax(x @ teacher + 0.3 * normal(len(x), WIDTHS[-1]), -1).astype(np.int32)
    x = normal(EXAMPLES, WIDTHS[0])
    labels = label(x)
    unseen = normal(BATCH, WIDTHS[0])

    def draw_batches(steps):
        index = np.random.default_rng(1).integers(0, EXAMPLES, (steps, BATCH), np.int32)
        return (x[index], labels[index]), index

    return Model(
        name="mlp",
        description="MLP " + "-".join(map(str, WIDTHS)) + f", tanh, batch {BATCH}",
        state0=jax.tree.map(np.asarray, (params, OPTIMISER.init(params))),
        meta=np.ones(EXAMPLES, np.float32),
        draw_batches=draw_batches,
        held_out=(unseen, label(unseen)),
        make_step=make_step,
        outer=outer,
    )
