"""Handwritten digits: 1,797 scanned 8x8 images, bundled with scikit-learn.

They are UCI's "Optical Recognition of Handwritten Digits", in three parts that share no image:
1,000 to train on, 400 to validate (metagradients are taken of this loss) and 397 to test, by which
nothing in the demo is chosen. Pixels are scaled to [0, 1].
"""

import itertools
from typing import NamedTuple

import numpy as np

CLASSES = 10
TRAIN, VALIDATION = 1000, 400


class Examples(NamedTuple):
    image: np.ndarray  # float32 [n, 64], in [0, 1]
    label: np.ndarray  # int32 [n]


class Digits(NamedTuple):
    train: Examples
    validation: Examples
    test: Examples


def load(seed):
    """The digits in an order that `seed` fixes, cut into the three parts."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng([seed, 0]).permutation(len(labels))
    image, label = (images[order] / 16).astype(np.float32), labels[order].astype(np.int32)
    cuts = [0, TRAIN, TRAIN + VALIDATION, len(labels)]
    return Digits(*(Examples(image[a:b], label[a:b]) for a, b in itertools.pairwise(cuts)))


def batches(examples, steps, size, seed):
    """The batch of every step: {"image" [steps, size, 64], "label" and "example" [steps, size]}.

    `example` is the index into `examples`. Each epoch has a new order. A batch may reach over the
    end of an epoch, so that all batches have one size.
    """
    random = np.random.default_rng([seed, 1])
    count = len(examples.label)
    epochs = -(-steps * size // count)
    example = (
        np.concatenate([random.permutation(count) for _ in range(epochs)])[: steps * size]
        .reshape(steps, size)
        .astype(np.int32)
    )
    return {"image": examples.image[example], "label": examples.label[example], "example": example}
