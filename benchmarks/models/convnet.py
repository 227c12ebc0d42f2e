"""A small convolutional net with batch normalisation, 16 x 16 x 3 images, batches of 32.

The running statistics are part of the state: the inner gradient hands them on as auxiliary output, and the outer function normalises with them, so the
metagradient has a way through them as well.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.models.model import OPTIMISER, Model

SIDE, COLOURS, CHANNELS, CLASSES = 16, 3, (8, 16), 10
BATCH = 32
EXAMPLES = 1024
MOMENTUM = 0.9


def convolve(x, kernel):
    return jax.lax.conv_general_dilated(x, kernel, window_strides=(2, 2), padding="SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def normalise(x, mean, variance, layer):
    return (x - mean) * jax.lax.rsqrt(variance + 1e-5) * layer["scale"] + layer["shift"]


def logits(params, statistics, x, training):
    """Logits and the running statistics after this batch (unchanged if not `training`)."""
    running = []
    for layer, before in zip(params["convolutions"], statistics):
        x = convolve(x, layer["kernel"])
        if training:
            mean = jnp.mean(x, (0, 1, 2))
            variance = jnp.mean((x - mean) ** 2, (0, 1, 2))
            after = {"mean": mean, "variance": variance}
            running.append(jax.tree.map(lambda old, new: MOMENTUM * old + (1 - MOMENTUM) * new, before, after))
        else:
            mean, variance = before["mean"], before["variance"]
            running.append(before)
        x = jax.nn.relu(normalise(x, mean, variance, layer))
    x = x.reshape(len(x), -1)
    return x @ params["dense"]["w"] + params["dense"]["b"], running


def loss(params, statistics, weights, batch):
    (x, labels), index = batch
    scores, statistics = logits(params, statistics, x, training=True)
    losses = optax.softmax_cross_entropy_with_integer_labels(scores, labels)
    return jnp.mean(weights[index] * losses), statistics


def make_step(autodiff):
    def step(state, weights, batch):
        params, statistics, optimiser = state
        (_, statistics), gradient = autodiff.value_and_grad(loss, has_aux=True)(params, statistics, weights, batch)
        updates, optimiser = OPTIMISER.update(gradient, optimiser, params)
        return optax.apply_updates(params, updates), statistics, optimiser

    return step


def outer(state, held_out):
    params, statistics, _ = state
    x, labels = held_out
    scores, _ = logits(params, statistics, x, training=False)
    return optax.softmax_cross_entropy_with_integer_labels(scores, labels).mean()


def model() -> Model:
    rng = np.random.default_rng(0)
    normal = lambda *shape: rng.standard_normal(shape, np.float32)
    widths = (COLOURS, *CHANNELS)
    features = (SIDE // 2 ** len(CHANNELS)) ** 2 * CHANNELS[-1]
    params = {
        "convolutions": [
            {
                "kernel": normal(3, 3, a, b) * np.float32(np.sqrt(2 / (9 * a))),
                "scale": np.ones(b, np.float32),
                "shift": np.zeros(b, np.float32),
            }
            for a, b in zip(widths[:-1], widths[1:])
        ],
        "dense": {"w": normal(features, CLASSES) / np.float32(np.sqrt(features)), "b": np.zeros(CLASSES, np.float32)},
    }
    statistics = [{"mean": np.zeros(c, np.float32), "variance": np.ones(c, np.float32)} for c in CHANNELS]

    # Each class is a picture; an example is its class's picture under noise.
    pictures = normal(CLASSES, SIDE, SIDE, COLOURS)

    def draw_examples(count):
        labels = rng.integers(0, CLASSES, count, np.int32)
        return pictures[labels] + 2 * normal(count, SIDE, SIDE, COLOURS), labels

    x, labels = draw_examples(EXAMPLES)
    held_out = draw_examples(4 * BATCH)

    def draw_batches(steps):
        index = np.random.default_rng(1).integers(0, EXAMPLES, (steps, BATCH), np.int32)
        return (x[index], labels[index]), index

    return Model(
        name="convnet",
        description=f"convolutions {CHANNELS[0]} and {CHANNELS[1]}, batch normalisation, {SIDE}x{SIDE}x{COLOURS}, batch {BATCH}",
        state0=jax.tree.map(np.asarray, (params, statistics, OPTIMISER.init(params))),
        meta=np.ones(EXAMPLES, np.float32),
        draw_batches=draw_batches,
        held_out=held_out,
        make_step=make_step,
        outer=outer,
    )
