"""Whether a result is finite, and what of it is not. Needs nothing that compiles a program."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metagrad.diagnostics.of_queries import faulty_queries
from metagrad.frontend.dtypes import is_float


def is_finite(value_and_gradients: Sequence[jax.Array], state: Sequence[jax.Array]) -> jax.Array:
    """Whether value and gradients are finite and the state has no NaN, as one boolean.

    A state may hold an infinity (the best loss so far, say).
    """
    faults = [~jnp.isfinite(array) for array in value_and_gradients if is_float(array)]
    faults += [jnp.isnan(array) for array in state if is_float(array)]
    by_shape: dict[tuple[int, ...], list[jax.Array]] = {}
    for flags in faults:
        by_shape.setdefault(flags.shape, []).append(flags)
    return ~jnp.stack([flag for group in by_shape.values() for flag in _any_of_each(group)]).any()


def _any_of_each(group: list[jax.Array]) -> Sequence[jax.Array]:
    """`any` of each of some arrays of one shape, in one reduction.

    XLA:CPU makes three kernels of a reduction of one array. With a reduction for each leaf of the
    state, these were a sixth of all kernels of a program, and of the time to compile them.
    """
    starts = [np.False_] * len(group)
    either = lambda totals, flags: [total | flag for total, flag in zip(totals, flags)]
    return jax.lax.reduce(group, starts, either, range(group[0].ndim))


def faults(result: Any, wrt: tuple[str, ...], single: bool, has_aux: bool) -> tuple[list[str], Any]:
    """What is not finite of value and gradient: what users call it, and the queries it is in."""
    gradients = {wrt[0]: result.grad} if single else dict(zip(wrt, result.grad))
    value = result.value[0] if has_aux else result.value
    paths = _not_finite("value", value)
    paths += [
        f"the gradient of {path}"
        for name, tree in gradients.items()
        for path in _not_finite(name, tree)
    ]
    return paths, faulty_queries(value, gradients, lambda leaf: ~jnp.isfinite(leaf))


def all_finite(array: jax.Array) -> jax.Array:
    return jnp.isfinite(array).all() if is_float(array) else jnp.asarray(True)


def _not_finite(name: str, tree: Any) -> list[str]:
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return [
        name + jax.tree_util.keystr(path)
        for path, leaf in leaves
        if is_float(leaf) and not all_finite(leaf)
    ]
