"""A U-Net that separates pictures from their background.

It halves the size twice by max pooling, goes back by transposed convolutions, and has group
normalisation. Batches are 8 images of 32 x 32 x 1.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.models.data import Draw
from benchmarks.models.layers import convolve, group_norm, max_pool
from benchmarks.models.model import Model
from benchmarks.models.training import weighted_run

SIDE = 32
WIDTHS = (16, 32, 64)
GROUPS = 4
BATCH = 8
EXAMPLES = 256


def double_convolution(x, layers):
    for layer in layers:
        x = jax.nn.relu(group_norm(convolve(x, layer["kernel"]), layer, GROUPS))
    return x


def logits(params, x):
    """[batch, height, width]; for each pixel, whether it belongs to the object."""
    passed = []
    for layers in params["down"]:
        x = double_convolution(x, layers)
        passed.append(x)
        x = max_pool(x)
    x = double_convolution(x, params["bottom"])
    for stage, beside in zip(params["up"], reversed(passed)):
        x = jax.lax.conv_transpose(
            x, stage["kernel"], (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        x = double_convolution(jnp.concatenate([beside, x], -1), stage["layers"])
    return (x @ params["head"]["w"] + params["head"]["b"])[..., 0]


def losses(params, inputs):
    """[batch]; cross entropy, averaged over the pixels."""
    images, masks = inputs
    return jnp.mean(optax.sigmoid_binary_cross_entropy(logits(params, images), masks), (1, 2))


def model() -> Model:
    draw = Draw()
    pair = lambda a, b: [
        {"kernel": draw.kernel(a, b), **draw.unit(b)},
        {"kernel": draw.kernel(b, b), **draw.unit(b)},
    ]
    *above, bottom = WIDTHS
    params = {
        "down": [pair(a, b) for a, b in zip((1, *above), above)],
        "bottom": pair(above[-1], bottom),
        "up": [
            {"kernel": draw.kernel(2 * b, b, size=2), "layers": pair(2 * b, b)}
            for b in reversed(above)
        ],
        "head": {"w": draw.matrix(WIDTHS[0], 1), "b": np.zeros(1, np.float32)},
    }

    def discs(count):
        """A bright disc on noise, and where it is."""
        centre, radius = (
            draw.rng.uniform(8, SIDE - 8, (count, 2, 1, 1)),
            draw.rng.uniform(3, 8, (count, 1, 1)),
        )
        rows, columns = np.mgrid[:SIDE, :SIDE]
        masks = ((rows - centre[:, 0]) ** 2 + (columns - centre[:, 1]) ** 2 < radius**2).astype(
            np.float32
        )
        return (masks + draw.normal(count, SIDE, SIDE))[..., None], masks

    description = (
        f"U-Net, widths {'-'.join(map(str, WIDTHS))}, group normalisation, {SIDE}x{SIDE}x1, "
        f"batch {BATCH}"
    )
    return weighted_run(
        "unet", description, params, losses, discs(EXAMPLES), discs(4 * BATCH), BATCH
    )
