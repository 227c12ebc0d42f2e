"""A two-tower model of images and captions with a contrastive loss, as CLIP.

Two transformers of two layers and width 64, batches of 16 pairs.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.models.data import Draw
from benchmarks.models.layers import layer_norm, patches, transformer_block
from benchmarks.models.model import Model
from benchmarks.models.training import weighted_run

LAYERS, WIDTH, HEADS, SHARED = 2, 64, 4, 64
SIDE, COLOURS, PATCH = 32, 3, 4
VOCABULARY, TOKENS = 64, 32
CLASSES = 32
BATCH = 16
EXAMPLES = 512


def tower(params, x, mask=None):
    """[batch, SHARED], of length one; the last token speaks for the whole."""
    x = x + params["position"]
    for layer in params["layers"]:
        x = transformer_block(x, layer, HEADS, mask)
    x = layer_norm(x[:, -1], params["last"]) @ params["project"]
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def losses(params, inputs):
    """[batch]; cross entropy of finding each image's caption and each caption's image."""
    images, tokens = inputs
    causal = jnp.tril(jnp.ones((TOKENS, TOKENS), bool))
    seen = tower(params["image"], patches(images, PATCH) @ params["image"]["patch"])
    read = tower(params["text"], params["text"]["embedding"][tokens], causal)
    scores = jnp.exp(params["temperature"]) * seen @ read.T
    same = jnp.arange(len(scores))
    cross_entropy = optax.softmax_cross_entropy_with_integer_labels
    return (cross_entropy(scores, same) + cross_entropy(scores.T, same)) / 2


def model() -> Model:
    draw = Draw()

    def new_tower(length):
        return {
            "position": draw.normal(length, WIDTH, scale=0.02),
            "layers": [draw.block(WIDTH) for _ in range(LAYERS)],
            "last": draw.unit(WIDTH),
            "project": draw.matrix(WIDTH, SHARED),
        }

    params = {
        "image": new_tower((SIDE // PATCH) ** 2)
        | {"patch": draw.matrix(PATCH * PATCH * COLOURS, WIDTH)},
        "text": new_tower(TOKENS) | {"embedding": draw.normal(VOCABULARY, WIDTH)},
        "temperature": np.float32(np.log(1 / 0.07)),
    }
    captions = draw.rng.integers(0, VOCABULARY, (CLASSES, TOKENS), np.int32)

    def pairs(images, labels):
        """Each class has a caption; a fifth of its tokens are drawn anew for each example."""
        tokens = captions[labels]
        return images, np.where(
            draw.rng.random(tokens.shape) < 0.2,
            draw.rng.integers(0, VOCABULARY, tokens.shape),
            tokens,
        ).astype(np.int32)

    training, held_out = (
        pairs(*pictures) for pictures in draw.pictures(CLASSES, SIDE, COLOURS, EXAMPLES, BATCH)
    )
    description = (
        f"two towers, {LAYERS} layers of width {WIDTH}, {HEADS} heads each, "
        f"{SIDE}x{SIDE}x{COLOURS} and {TOKENS} tokens, batch {BATCH}"
    )
    return weighted_run("clip", description, params, losses, training, held_out, BATCH)
