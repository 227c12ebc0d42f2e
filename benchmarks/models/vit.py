"""A vision transformer with three layers of width 128 and four heads.

Batches are 8 images of 32 x 32 x 3, in patches of 4 x 4.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.models.data import Draw
from benchmarks.models.layers import layer_norm, patches, transformer_block
from benchmarks.models.model import Model
from benchmarks.models.training import weighted_run

LAYERS, WIDTH, HEADS = 3, 128, 4
SIDE, COLOURS, PATCH, CLASSES = 32, 3, 4, 10
BATCH = 8
EXAMPLES = 512


def logits(params, images):
    x = patches(images, PATCH) @ params["patch"]["w"] + params["patch"]["b"]
    first = jnp.broadcast_to(params["class"], (len(x), 1, WIDTH))
    x = jnp.concatenate([first, x], 1) + params["position"]
    for layer in params["layers"]:
        x = transformer_block(x, layer, HEADS)
    return layer_norm(x[:, 0], params["last"]) @ params["head"]["w"] + params["head"]["b"]


def losses(params, inputs):
    images, labels = inputs
    return optax.softmax_cross_entropy_with_integer_labels(logits(params, images), labels)


def model() -> Model:
    draw = Draw()
    inputs = PATCH * PATCH * COLOURS
    params = {
        "patch": {"w": draw.matrix(inputs, WIDTH), "b": np.zeros(WIDTH, np.float32)},
        "class": draw.normal(WIDTH, scale=0.02),
        "position": draw.normal((SIDE // PATCH) ** 2 + 1, WIDTH, scale=0.02),
        "layers": [draw.block(WIDTH) for _ in range(LAYERS)],
        "last": draw.unit(WIDTH),
        "head": {"w": draw.matrix(WIDTH, CLASSES), "b": np.zeros(CLASSES, np.float32)},
    }
    description = (
        f"ViT, {LAYERS} layers of width {WIDTH}, {HEADS} heads, {SIDE}x{SIDE}x{COLOURS} "
        f"in patches of {PATCH}x{PATCH}, batch {BATCH}"
    )
    return weighted_run(
        "vit",
        description,
        params,
        losses,
        *draw.pictures(CLASSES, SIDE, COLOURS, EXAMPLES, 4 * BATCH),
        BATCH,
    )
