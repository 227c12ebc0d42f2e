"""Subsets of the training examples to train on."""

from __future__ import annotations

import numpy as np


def random_subsets(n: int, count: int, keep: float = 0.5, seed: int = 0) -> np.ndarray:
    """Random subsets of a fixed size, as the linear datamodelling score has them.

    Args:
      n: how many training examples there are.
      count: how many subsets.
      keep: the part of the examples that each subset keeps, in (0, 1).
      seed: of the draw.

    Returns:
      bool [count, n]: True for examples that are kept. Rows are drawn independently.

    Raises:
      ValueError: an argument is out of its range, or a subset would be everything or nothing.
    """
    if not 0 < keep < 1:
        raise ValueError(f"keep={keep!r} must lie between 0 and 1")
    size = round(n * keep)
    if not 0 < size < n:
        raise ValueError(f"keep={keep!r} of n={n} examples leaves {size}: nothing would differ")
    return _draw(n, size, count, seed)


def leave_out(n: int, k: int, count: int, seed: int = 0) -> np.ndarray:
    """Subsets that each leave k examples out, drawn at random.

    Args:
      n: how many training examples there are.
      k: how many each subset leaves out.
      count: how many subsets.
      seed: of the draw.

    Returns:
      bool [count, n]: False for examples that are left out.

    Raises:
      ValueError: k is not between 1 and n - 1.
    """
    if not 1 <= k < n:
        raise ValueError(f"k={k!r} must be at least 1 and less than n={n}")
    return _draw(n, n - k, count, seed)


def _draw(n: int, size: int, count: int, seed: int) -> np.ndarray:
    if count < 1:
        raise ValueError(f"count={count!r}: at least one subset")
    random = np.random.default_rng(seed)
    return random.permuted(np.tile(np.arange(n) < size, (count, 1)), axis=1)
