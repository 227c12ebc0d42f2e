"""Finds where a NaN in a metagradient comes from: the leaf, and the step at which it first appeared.

Only run when the result has a NaN and the user asked.  The run is done again step by step on the host, all states kept, first forward and then backward with
JAX's own VJP; slow and simple.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def diagnosis(step: Callable, outer: Callable, step_has_aux: bool, has_aux: bool, wrt: tuple[str, ...], single: bool) -> Callable:
    """A function of (gradient, arguments) that raises FloatingPointError if the gradient has a NaN."""

    def diagnose(gradient: Any, arguments: tuple) -> None:
        gradients = {wrt[0]: gradient} if single else dict(zip(wrt, gradient))
        bad = [path for name, tree in gradients.items() for path in _nan_leaves(name, tree)]
        if bad:
            raise FloatingPointError(f"the metagradient is NaN in {_listed(bad)}. {_origin(step, outer, step_has_aux, has_aux, arguments)}")

    return diagnose


def _origin(step, outer, step_has_aux: bool, has_aux: bool, arguments: tuple) -> str:
    state, meta, batches, outer_args = arguments
    plain = jax.jit(lambda s, z, b: step(s, z, b)[0] if step_has_aux else step(s, z, b))
    value = lambda s: outer(s, *outer_args)[0] if has_aux else outer(s, *outer_args)
    steps = jax.tree.leaves(batches)[0].shape[0]
    batch = lambda t: jax.tree.map(lambda leaf: leaf[t], batches)
    states = [state]
    for t in range(steps):
        states.append(plain(states[-1], meta, batch(t)))
        bad = _nan_leaves("state", states[-1])
        if bad:
            return f"Training itself gave the first NaN: at step {t}, in {_listed(bad)}. Lower the learning rate, or look at that batch."
    final, pull = jax.vjp(value, states[-1])
    (bar,) = pull(jnp.ones_like(final))
    bad = _nan_leaves("state", bar)
    if bad:
        return f"Training has no NaN; the outer function's gradient has the first, in {_listed(bad)}."

    @jax.jit
    def reverse(s, z, b, bar):
        return jax.vjp(plain, s, z, b)[1](bar)

    for t in reversed(range(steps)):
        state_bar, meta_bar, batch_bar = reverse(states[t], meta, batch(t), bar)
        bad = [*_nan_leaves("state", state_bar), *_nan_leaves("meta", meta_bar), *_nan_leaves("batch", batch_bar)]
        if bad:
            return (
                f"Training has no NaN; going backward it first appeared in the VJP of step {t}, in the cotangent of {_listed(bad)}. "
                "A square root at zero has no finite derivative: an adaptive optimiser where a gradient is exactly zero does this "
                "(in optax, give `eps_root`), and so does a norm of zeros."
            )
        bar = state_bar
    return "The NaN did not appear again when the run was repeated step by step by JAX; please report this."


def _nan_leaves(name: str, tree: Any) -> list[str]:
    found = []
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        dtype = getattr(leaf, "dtype", None)
        if dtype is not None and jnp.issubdtype(dtype, np.floating) and bool(jnp.isnan(leaf).any()):
            found.append(name + jax.tree_util.keystr(path))
    return found


def _listed(paths: list[str]) -> str:
    return ", ".join(paths[:4]) + (f" and {len(paths) - 4} more leaves" if len(paths) > 4 else "")
