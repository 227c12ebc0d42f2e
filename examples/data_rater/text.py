"""Clean and corrupted text: Python's language reference, with characters replaced at random."""

from typing import NamedTuple

import numpy as np

from examples import language_model

LEVELS, SHARES = (0.0, 0.15, 0.3, 0.6), (0.4, 0.2, 0.2, 0.2)
"""The part of a sequence's characters that are replaced, and how much of the pool has it."""
POOL, HELD_OUT, TEST = 5000, 1000, 1000


class Data(NamedTuple):
    """Sequences, int32 [n, 33]; `held_out` and `test` are clean.

    Attributes:
      pool: what is trained on.
      level: of each sequence of the pool, the part of its characters that are replaced.
      held_out: the outer loss is taken on these.
      test: what models are compared on.
    """

    pool: np.ndarray
    level: np.ndarray
    held_out: np.ndarray
    test: np.ndarray


def corrupted(pieces, level, random):
    """With each character replaced by a random one, with probability `level` (one per piece)."""
    noise = random.integers(0, len(language_model.CHARACTERS), pieces.shape)
    return np.where(random.random(pieces.shape) < level[:, None], noise, pieces).astype(np.int32)


def make(seed):
    random = np.random.default_rng(seed)
    pieces = language_model.sequences(language_model.manual(), seed)
    held_out, test, pool = np.split(pieces[: HELD_OUT + TEST + POOL], [HELD_OUT, HELD_OUT + TEST])
    level = random.permutation(np.repeat(LEVELS, np.round(np.multiply(SHARES, POOL)).astype(int)))
    return Data(corrupted(pool, level, random), level, held_out, test)
