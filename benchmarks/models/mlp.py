"""A multilayer perceptron, 784-256-256-10 with tanh, batches of 128.

Most of a step is three matrix products and Adam's traffic.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.models.data import Draw
from benchmarks.models.layers import dense
from benchmarks.models.model import Model
from benchmarks.models.training import weighted_run

WIDTHS = (784, 256, 256, 10)
BATCH = 128
EXAMPLES = 2048


def logits(params, x, narrow=None):
    *hidden, last = params
    for layer in hidden:
        x = jnp.tanh(dense(x, layer["w"], narrow) + layer["b"])
    return dense(x, last["w"], narrow) + last["b"]


def losses(params, inputs, narrow=None):
    x, labels = inputs
    return optax.softmax_cross_entropy_with_integer_labels(logits(params, x, narrow), labels)


def model(narrow: Any = None) -> Model:
    """The model; `narrow` is the dtype that products are taken in, f32 if None."""
    draw = Draw()
    params = [
        {"w": draw.matrix(a, b), "b": np.zeros(b, np.float32)}
        for a, b in itertools.pairwise(WIDTHS)
    ]
    # The labels are those of a linear teacher, with noise: there is something to learn, and some
    # examples mislead.
    teacher = draw.matrix(WIDTHS[0], WIDTHS[-1])
    label = lambda x: np.argmax(x @ teacher + 0.3 * draw.normal(len(x), WIDTHS[-1]), -1).astype(
        np.int32
    )
    x = draw.normal(EXAMPLES, WIDTHS[0])
    labels = label(x)
    unseen = draw.normal(BATCH, WIDTHS[0])
    description = "MLP " + "-".join(map(str, WIDTHS)) + f", tanh, batch {BATCH}"
    return weighted_run(
        "mlp",
        description,
        params,
        functools.partial(losses, narrow=narrow),
        (x, labels),
        (unseen, label(unseen)),
        BATCH,
    )
