"""The options of `metagrad.descent`, checked before anything runs."""

from __future__ import annotations

import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metagrad.api.progress import check_progress
from metagrad.api.train_step import TrainStep
from metagrad.frontend.dtypes import is_key


def check_functions(mg: Any, problem: Any, projection: Any, callback: Any) -> None:
    """Raises TypeError for what is not a function, and for a step in the place of `mg`."""
    if not callable(mg) or isinstance(mg, TrainStep):
        raise TypeError(f"mg must be a metagradient, train_step.metagradient(outer), got {mg!r}")
    if not callable(problem):
        raise TypeError(f"problem must be a function of (round, key), got {problem!r}")
    for name, function in (("projection", projection), ("callback", callback)):
        if function is not None and not callable(function):
            raise TypeError(f"{name} must be a function or None, got {function!r}")


def check_optimizer(optimizer: Any) -> None:
    """Raises TypeError unless it is an optax transformation, and ImportError without optax."""
    try:
        import optax  # noqa: F401
    except ImportError:
        raise ImportError(
            'metagrad.descent needs optax: pip install "metagrad[examples]"'
        ) from None
    if not (
        callable(getattr(optimizer, "init", None)) and callable(getattr(optimizer, "update", None))
    ):
        raise TypeError(
            f"optimizer must be an optax.GradientTransformation, such as optax.adam(0.1), got "
            f"{optimizer!r}"
        )


def check_numbers(rounds: Any, seeds: Any, patience: Any, seconds: Any, min_gain: Any) -> None:
    """Raises TypeError or ValueError for a number that is none, or out of range."""
    _check_integer("rounds", rounds, 0)
    _check_integer("seeds", seeds, 1)
    if patience is not None:
        _check_integer("patience", patience, 1)
    if seconds is not None:
        _check_number("seconds", seconds)
    _check_number("min_gain", min_gain)


def check_saving(resume_dir: Any, save_every: Any, progress: Any) -> None:
    """Raises TypeError or ValueError for what these options do not take."""
    check_progress(progress)
    _check_number("save_every", save_every)
    if resume_dir is not None and not isinstance(resume_dir, (str, os.PathLike)):
        raise TypeError(f"resume_dir must be a path or None, got {resume_dir!r}")


def as_key(key: Any) -> jax.Array:
    """A PRNG key from an integer, or the key itself.

    Raises:
      TypeError: it is neither.
    """
    if isinstance(key, (int, np.integer)) and not isinstance(key, bool):
        return jax.random.key(key)
    if is_key(key) and key.shape == ():
        return key
    if getattr(key, "dtype", None) == jnp.uint32 and key.ndim == 1:
        return jnp.asarray(key)
    raise TypeError(f"key must be an integer or one key of jax.random, got {key!r}")


def _check_integer(name: str, number: Any, least: int) -> None:
    if isinstance(number, bool) or not isinstance(number, (int, np.integer)):
        raise TypeError(f"{name} must be an integer, got {number!r}")
    if number < least:
        raise ValueError(f"{name}={number} must be at least {least}")


def _check_number(name: str, number: Any) -> None:
    if isinstance(number, bool) or not isinstance(number, (int, float, np.number)):
        raise TypeError(f"{name} must be a number, got {number!r}")
    if not number >= 0:
        raise ValueError(f"{name}={number} must be at least 0")
