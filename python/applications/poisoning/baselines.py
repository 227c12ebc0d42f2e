"""Poisonings without metagradients: noise, flipped labels, and gradient cancelling."""

from __future__ import annotations

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
    flat, rebuild = ravel_pytree(params)
    radius = distance * jnp.linalg.norm(flat)
    slope = jax.grad(lambda x: loss(rebuild(x)))

    def ascend(x, _):
        gradient = slope(x)
        x = x + 2 * radius / steps * gradient / (jnp.linalg.norm(gradient) + 1e-12)
        moved = x - flat
        return flat + moved * jnp.minimum(1, radius / (jnp.linalg.norm(moved) + 1e-12)), None

    return rebuild(jax.jit(lambda x: jax.lax.scan(ascend, x, length=steps)[0])(flat))


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
    try:
        import optax
    except ImportError as error:
        raise ImportError('this attack needs optax: pip install "metagrad[examples]"') from error
    adam = optax.adam(rate)
    leaves, structure = jax.tree.flatten(data)
    count = len(leaves[box.position])
    rows_of = lambda index: [jnp.asarray(leaf)[index] for leaf in leaves]
    moving = rows_of(box.examples)
    others = jax.tree.unflatten(structure, rows_of(np.delete(np.arange(count), box.examples)))
    total = lambda params, data: jnp.sum(losses(params, data)) / count
    of_others = jax.jit(jax.grad(total))(params, others)

    def squared_norm(rows):
        changed = jax.tree.unflatten(
            structure, [rows if i == box.position else leaf for i, leaf in enumerate(moving)]
        )
        gradient = jax.tree.map(jnp.add, of_others, jax.grad(total)(params, changed))
        return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(gradient))

    def step(carry, _):
        rows, moments = carry
        # The square of the norm, since the norm has no slope at zero.
        value, gradient = jax.value_and_grad(squared_norm)(rows)
        updates, moments = adam.update(gradient, moments)
        return (jnp.clip(rows + updates, box.low, box.high), moments), jnp.sqrt(value)

    run = jax.jit(lambda rows: jax.lax.scan(step, (rows, adam.init(rows)), length=steps))
    (rows, _), norms = run(moving[box.position])
    return box.replace(data, lambda _: rows), np.asarray(norms)
