"""What a surrogate is given, and what the functions in it return: refused with what to do."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from metagrad.api.train_step import TrainStep


def check_step(step: Any) -> None:
    """Raises TypeError for a step that is decorated, or does not take `extra`."""
    if isinstance(step, TrainStep):
        raise TypeError(
            "step must be undecorated, a function (state, meta, batch, extra), got "
            f"{step!r}: take metagrad.compile away"
        )
    try:
        signature = inspect.signature(step)
    except (TypeError, ValueError):  # a builtin has none to see
        return
    try:
        signature.bind(*[None] * 4)
    except TypeError:
        raise TypeError(
            f"step must take (state, meta, batch, extra), and takes {signature}. Give it a fourth "
            "argument, extra=metagrad.mgd.no_extra, and add extra(params) to the loss that it "
            "takes the gradient of."
        ) from None


def with_extra(step: Callable, state: Any, meta: Any, batch: Any, extra: Callable) -> Any:
    """A step with an extra loss.

    Raises:
      ValueError: the step does not call it, so that counts would never move.
    """
    calls = []

    def counted(params: Any) -> Any:
        calls.append(params)
        return extra(params)

    new = step(state, meta, batch, counted)
    if not calls:
        raise ValueError(
            "step never calls its fourth argument, extra, through which the pool comes in: add "
            "extra(params) to the loss that it takes the gradient of"
        )
    return new


def check_value(value: Any) -> None:
    """Raises ValueError for the value of an outer function that is no scalar."""
    value = value[0] if isinstance(value, tuple) else value
    if jnp.shape(value) != ():
        raise ValueError(
            f"outer must return a real scalar, and returned one of shape {jnp.shape(value)}: take "
            "its mean"
        )


def checked_losses(losses: Any, examples: Any) -> Any:
    """What `losses` returned.

    Raises:
      ValueError: it is not one number for each of the examples. (A mean of them would be spread
        over the pool, and every count would get the same gradient.)
    """
    count = len(jax.tree.leaves(examples)[0])
    if jnp.shape(losses) != (count,):
        raise ValueError(
            f"losses must return the loss of each example, of shape ({count},) for {count} "
            f"examples, and returned one of shape {jnp.shape(losses)}"
        )
    return losses


def check_pool(pool: Any, counts: jax.Array) -> None:
    if not jax.tree.leaves(pool):
        raise ValueError("pool has no arrays")
    if counts.ndim != 1:
        raise ValueError(f"counts must have the shape [n], got {counts.shape}")
    for path, leaf in jax.tree_util.tree_flatten_with_path(pool)[0]:
        if jnp.shape(leaf)[:1] != counts.shape:
            raise ValueError(
                f"pool{jax.tree_util.keystr(path)} has shape {jnp.shape(leaf)}, and there are "
                f"{counts.size} counts"
            )
