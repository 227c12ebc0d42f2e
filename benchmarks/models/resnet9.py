"""A ResNet-9 whose stages are strided convolutions, with batch normalisation.

Batches are 32 images of 32 x 32 x 3.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.models.data import Draw
from benchmarks.models.layers import batch_norm, convolve
from benchmarks.models.model import Model
from benchmarks.models.training import weighted_run_with_statistics

SIDE, COLOURS, CLASSES = 32, 3, 10
WIDTHS = (16, 32, 64, 64)
BATCH = 32
EXAMPLES = 512

# (from, to, stride) of the eight convolutions. The third and fourth, and the seventh and eighth,
# are the residual branches.
CONVOLUTIONS = (
    (COLOURS, WIDTHS[0], 1),
    (WIDTHS[0], WIDTHS[1], 2),
    (WIDTHS[1], WIDTHS[1], 1),
    (WIDTHS[1], WIDTHS[1], 1),
    (WIDTHS[1], WIDTHS[2], 2),
    (WIDTHS[2], WIDTHS[3], 2),
    (WIDTHS[3], WIDTHS[3], 1),
    (WIDTHS[3], WIDTHS[3], 1),
)
BRANCH_STARTS, BRANCH_ENDS = (2, 6), (3, 7)


def logits(params, statistics, x, training):
    """Logits and the running statistics after this batch (unchanged if not `training`)."""
    running = []
    for i, (layer, before) in enumerate(zip(params["convolutions"], statistics)):
        if i in BRANCH_STARTS:
            beside = x
        x, after = batch_norm(
            convolve(x, layer["kernel"], CONVOLUTIONS[i][2]), layer, before, training
        )
        running.append(after)
        x = jax.nn.relu(x)
        if i in BRANCH_ENDS:
            x = x + beside
    return jnp.max(x, (1, 2)) @ params["dense"]["w"] + params["dense"]["b"], running


def model() -> Model:
    draw = Draw()
    params = {
        "convolutions": [{"kernel": draw.kernel(a, b), **draw.unit(b)} for a, b, _ in CONVOLUTIONS],
        "dense": {"w": draw.matrix(WIDTHS[-1], CLASSES), "b": np.zeros(CLASSES, np.float32)},
    }
    statistics = [draw.statistics(b) for _, b, _ in CONVOLUTIONS]
    description = (
        f"ResNet-9, strided, widths {'-'.join(map(str, WIDTHS))}, batch normalisation, "
        f"{SIDE}x{SIDE}x{COLOURS}, batch {BATCH}"
    )
    pictures = draw.pictures(CLASSES, SIDE, COLOURS, EXAMPLES, 4 * BATCH)
    return weighted_run_with_statistics(
        "resnet9", description, params, statistics, logits, *pictures, BATCH
    )
