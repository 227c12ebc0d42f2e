"""scikit-learn's handwritten digits, 8x8 pixels in [0, 1], in three parts that share no image."""

import itertools
from typing import NamedTuple

import numpy as np


class Examples(NamedTuple):
    image: np.ndarray  # float32 [n, 8, 8], in [0, 1]
    label: np.ndarray  # int32 [n]


class Digits(NamedTuple):
    train: Examples
    held_out: Examples
    test: Examples


def load(train, held_out, seed=0):
    """`train` images to train on, `held_out` to take metagradients of, and the rest to test.

    The order is drawn with `seed`.
    """
    from sklearn.datasets import load_digits

    image, label = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(label))
    image = (image[order] / 16).reshape(-1, 8, 8).astype(np.float32)
    label = label[order].astype(np.int32)
    cuts = [0, train, train + held_out, len(label)]
    return Digits(*(Examples(image[a:b], label[a:b]) for a, b in itertools.pairwise(cuts)))


def batches(label, steps, size, seed):
    """{"example": [steps, size], "label": [steps, size]}: every epoch has a new order."""
    random = np.random.default_rng(seed)
    epochs = -(-steps * size // len(label))
    order = np.concatenate([random.permutation(len(label)) for _ in range(epochs)])
    example = order[: steps * size].reshape(steps, size).astype(np.int32)
    return {"example": example, "label": label[example]}
