"""Poisonings without metagradients: noise, flipped labels, and gradient cancelling."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from metagrad.applications.poisoning.box import Box


def random_noise(data: Any, box: Box, seed: int = 0) -> Any:
    """The data with entries drawn evenly from the box.

    Raises:
      ValueError: the box has no bounds.
    """
    if not (np.isfinite(box.low).all() and np.isfinite(box.high).all()):
        raise ValueError("the box has no bounds to draw between: give limits or a radius")
    drawn = np.random.default_rng(seed).uniform(box.low, box.high)
    return box.replace(data, lambda rows: jnp.asarray(drawn, rows.dtype))


def flip_labels(labels: Any, examples: Any, classes: int, seed: int = 0) -> np.ndarray:
    """The labels, with another class, drawn evenly, for these examples.

    Args:
      labels: int [n], from 0 to classes - 1.
    """
    flipped = np.array(labels)
    shift = np.random.default_rng(seed).integers(1, classes, len(examples))
    flipped[examples] = (flipped[examples] + shift) % classes
    return flipped


def corrupt_parameters(
    loss: Callable[[Any], jax.Array], params: Any, distance: float, steps: int = 20
) -> Any:
    """Parameters near others at which a loss is high: the target of gradient cancelling.

    Gradient ascent with normalised steps, within a ball around the parameters (GradPC of Sun et al.
    2020, arXiv 2006.05620, in several steps).

    Args:
      loss: of parameters, a held-out loss.
      params: parameters after clean training.
      distance: the radius of the ball, over the norm of the parameters.
      steps: of ascent.
    """
    return _corrupted(loss, params, distance, steps)


@functools.partial(jax.jit, static_argnums=(0, 3))
def _corrupted(loss: Callable, params: Any, distance: float, steps: int) -> Any:
    flat, rebuild = ravel_pytree(params)
    radius = distance * jnp.linalg.norm(flat)
    slope = jax.grad(lambda x: loss(rebuild(x)))

    def ascend(x, _):
        gradient = slope(x)
        x = x + 2 * radius / steps * gradient / (jnp.linalg.norm(gradient) + 1e-12)
        moved = x - flat
        return flat + moved * jnp.minimum(1, radius / (jnp.linalg.norm(moved) + 1e-12)), None

    return rebuild(jax.lax.scan(ascend, flat, length=steps)[0])


def cancel_gradients(
    losses: Callable[[Any, Any], jax.Array],
    params: Any,
    data: Any,
    box: Box,
    steps: int = 300,
    rate: float = 0.02,
) -> tuple[Any, np.ndarray]:
    """Data with which training would rest at given parameters (Lu et al. 2023, arXiv 2303.03592).

    The norm of the gradient of the mean training loss at these parameters is made small by Adam on
    the examples that may change, which are projected to the box after each step. The gradient of
    the other examples does not change and is taken once.

    Args:
      losses: `losses(params, data)`, the loss of each example of the data, [n]. It is called with
        rows of the data, too.
      params: where training is to rest: `corrupt_parameters` makes them.
      data: the clean data; all its leaves have a leading axis of n examples, labels too.
      box: which rows may change, and how far.
      steps, rate: of Adam.

    Returns:
      The poisoned data, and the gradient's norm before each step, [steps].

    Raises:
      ImportError: optax is not installed.
    """
    rows_of = lambda index: jax.tree.map(lambda leaf: jnp.asarray(leaf)[index], data)
    kept = np.delete(np.arange(len(jax.tree.leaves(data)[box.position])), box.examples)
    rows, norms = _cancelled(
        losses,
        box.position,
        steps,
        params,
        rows_of(box.examples),
        rows_of(kept),
        box.low,
        box.high,
        rate,
    )
    return box.replace(data, lambda _: rows), np.asarray(norms)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _cancelled(
    losses: Callable,
    position: int,
    steps: int,
    params: Any,
    moving: Any,
    others: Any,
    low: jax.Array,
    high: jax.Array,
    rate: float,
) -> tuple[jax.Array, jax.Array]:
    """The rows of the leaf at the position, and the norms: see `cancel_gradients`."""
    optax = _optax()
    adam = optax.adam(rate)
    leaves, structure = jax.tree.flatten(moving)
    count = len(low) + len(jax.tree.leaves(others)[position])
    total = lambda params, data: jnp.sum(losses(params, data)) / count
    of_others = jax.grad(total)(params, others)

    def squared_norm(rows):
        changed = [rows if i == position else leaf for i, leaf in enumerate(leaves)]
        of_moving = jax.grad(total)(params, jax.tree.unflatten(structure, changed))
        gradient = jax.tree.map(jnp.add, of_others, of_moving)
        return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(gradient))

    def step(carry, _):
        rows, moments = carry
        # The square of the norm, since the norm has no slope at zero.
        value, gradient = jax.value_and_grad(squared_norm)(rows)
        updates, moments = adam.update(gradient, moments)
        return (jnp.clip(rows + updates, low, high), moments), jnp.sqrt(value)

    start = leaves[position]
    (rows, _), norms = jax.lax.scan(step, (start, adam.init(start)), length=steps)
    return rows, norms


def _optax() -> Any:
    try:
        import optax
    except ImportError as error:
        raise ImportError('this attack needs optax: pip install "metagrad[examples]"') from error
    return optax
