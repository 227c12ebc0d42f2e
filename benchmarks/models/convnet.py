"""A small convolutional net with batch normalisation, 16 x 16 x 3 images, batches of 32."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import jax
import numpy as np

from benchmarks.models.data import Draw
from benchmarks.models.layers import batch_norm, convolve, dense
from benchmarks.models.model import Model
from benchmarks.models.training import weighted_run_with_statistics

SIDE, COLOURS, CHANNELS, CLASSES = 16, 3, (8, 16), 10
BATCH = 32
EXAMPLES = 1024


def logits(params, statistics, x, training, narrow=None):
    """Logits and the running statistics after this batch (unchanged if not `training`)."""
    running = []
    for layer, before in zip(params["convolutions"], statistics):
        x, after = batch_norm(convolve(x, layer["kernel"], 2, narrow), layer, before, training)
        running.append(after)
        x = jax.nn.relu(x)
    x = x.reshape(len(x), -1)
    return dense(x, params["dense"]["w"], narrow) + params["dense"]["b"], running


def model(narrow: Any = None) -> Model:
    """The model; `narrow` is the dtype that products are taken in, f32 if None."""
    draw = Draw()
    widths = (COLOURS, *CHANNELS)
    features = (SIDE // 2 ** len(CHANNELS)) ** 2 * CHANNELS[-1]
    params = {
        "convolutions": [
            {"kernel": draw.kernel(a, b), **draw.unit(b)} for a, b in itertools.pairwise(widths)
        ],
        "dense": {"w": draw.matrix(features, CLASSES), "b": np.zeros(CLASSES, np.float32)},
    }
    statistics = [draw.statistics(channels) for channels in CHANNELS]
    description = (
        f"convolutions {CHANNELS[0]} and {CHANNELS[1]}, batch normalisation, "
        f"{SIDE}x{SIDE}x{COLOURS}, batch {BATCH}"
    )
    pictures = draw.pictures(CLASSES, SIDE, COLOURS, EXAMPLES, 4 * BATCH)
    return weighted_run_with_statistics(
        "convnet",
        description,
        params,
        statistics,
        functools.partial(logits, narrow=narrow),
        *pictures,
        BATCH,
    )
