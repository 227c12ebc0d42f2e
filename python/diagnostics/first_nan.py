"""Finds where a NaN in a metagradient comes from: the leaf, and the step where it appeared first.

It runs only when the result has a NaN and the user asked for the search. The training run is
repeated step by step from the host, first forward and then backward with JAX's own VJP, and every
state is kept. This is slow and simple.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metagrad.diagnostics.of_queries import enumerate_queries, faulty_queries
from metagrad.diagnostics.paths import enumerate_paths
from metagrad.frontend import prints
from metagrad.frontend.dtypes import is_float
from metagrad.frontend.pytrees import tree_of


def diagnosis(
    step: Callable,
    outer: Callable,
    step_has_aux: bool,
    has_aux: bool,
    wrt: tuple[str, ...],
    single: bool,
    is_forward: bool = False,
) -> Callable:
    """A function of (result, arguments) that searches for the origin of a NaN.

    The search goes backward, whichever mode the program has (`is_forward`). It raises
    FloatingPointError if the value, the gradient or the final state has a NaN.
    """

    def diagnose(result: Any, arguments: tuple) -> None:
        gradients = {wrt[0]: result.grad} if single else dict(zip(wrt, result.grad))
        value = result.value[0] if has_aux else result.value
        nan_paths = _nan_leaves("value", value)
        nan_paths += [
            f"the gradient of {path}"
            for name, tree in gradients.items()
            for path in _nan_leaves(name, tree)
        ]
        nan_paths += [f"the final {path}" for path in _nan_leaves("state", result.state)]
        if nan_paths:
            queries = faulty_queries(value, gradients, jnp.isnan)
            first = queries[0] if queries else None
            origin = _origin(step, outer, step_has_aux, has_aux, arguments, first)
            origin = origin or (_ONLY_FORWARD if is_forward else _NOT_AGAIN)
            raise FloatingPointError(
                f"the metagradient has a NaN in {enumerate_paths(nan_paths)}"
                f"{enumerate_queries(queries)}. {origin}"
            )

    return diagnose


def _origin(
    step, outer, step_has_aux: bool, has_aux: bool, arguments: tuple, query: int | None
) -> str:
    """Where the first NaN is, in words; on the way back of one `query`, if there are several.

    Empty if there is none.
    """
    state, meta, batches, outer_args = arguments
    # Leaves that are not arrays stay outside of JAX, as in the compiled program.
    trees = {
        name: tree_of(name, tree)
        for name, tree in (
            ("state", state),
            ("meta", meta),
            ("batches", batches),
            ("outer_args", outer_args),
        )
    }

    @jax.jit
    @prints.without
    def forward(s, z, b):
        new = step(trees["state"].rebuild(s), trees["meta"].rebuild(z), trees["batches"].rebuild(b))
        return trees["state"].arrays(new[0] if step_has_aux else new)

    @jax.jit
    @prints.without
    def value_of(s, args):
        value = outer(trees["state"].rebuild(s), *trees["outer_args"].rebuild(args))
        return value[0] if has_aux else value

    @jax.jit
    def reverse(s, z, b, bar):
        state_bar, meta_bar, batch_bar = _pull(forward, (s, z, b), bar)
        return state_bar, meta_bar, batch_bar

    def nan_leaves(name: str, tree: str, leaves: list) -> list[str]:
        return [
            leaf.path.replace(tree, name, 1)
            for leaf, array in zip(trees[tree].leaves, leaves)
            if _has_nan(array)
        ]

    arrays = {name: tree.arrays(value) for (name, tree), value in zip(trees.items(), arguments)}
    if paths := [path for name in trees for path in nan_leaves(name, name, arrays[name])]:
        return f"It was in the arguments: {enumerate_paths(paths)}."
    batch = lambda t: [leaf[t] for leaf in arrays["batches"]]
    states = [arrays["state"]]
    for t in range(arrays["batches"][0].shape[0]):
        states.append(forward(states[-1], arrays["meta"], batch(t)))
        if paths := nan_leaves("state", "state", states[-1]):
            return (
                f"Training itself gave the first NaN: at step {t}, in {enumerate_paths(paths)}. "
                "Lower the learning rate, or look at that batch."
            )
    value = value_of(states[-1], arrays["outer_args"])
    if _has_nan(value):
        return "Training has no NaN; the outer function's value is the first."
    seed = jnp.ones_like(value) if query is None else jnp.zeros_like(value).at[query].set(1)
    bar, _ = _pull(value_of, (states[-1], arrays["outer_args"]), seed)
    if paths := nan_leaves("state", "state", bar):
        return (
            "Training has no NaN; the outer function's gradient has the first, "
            f"in the cotangent of {enumerate_paths(paths)}. {_ROOT}"
        )
    for t in reversed(range(len(states) - 1)):
        state_bar, meta_bar, batch_bar = reverse(states[t], arrays["meta"], batch(t), bar)
        paths = (
            nan_leaves("state", "state", state_bar)
            + nan_leaves("meta", "meta", meta_bar)
            + nan_leaves("batch", "batches", batch_bar)
        )
        if paths:
            return (
                f"Training has no NaN; going backward it first appeared in the VJP of step {t}, "
                f"in the cotangent of {enumerate_paths(paths)}. {_ROOT}"
            )
        bar = state_bar
    return ""


_NOT_AGAIN = (
    "The NaN did not appear again when the run was repeated step by step by JAX; "
    "please report this."
)

_ONLY_FORWARD = (
    "Backward, step by step, there is none: a tangent meets an infinite derivative that no "
    "cotangent meets. Use mode='reverse'."
)

_ROOT = (
    "A square root at zero has no finite derivative: an adaptive optimiser where a gradient is "
    "exactly zero does this (in optax, give `eps_root`), and so does a norm of zeros."
)


def _pull(function: Callable, operands: tuple, bar: Any) -> Any:
    """Cotangents of lists of operands.

    A result that is not floating point takes a float0 zero, whatever `bar` holds for it.
    """
    results, pullback = jax.vjp(function, *operands)
    return pullback(
        jax.tree.map(
            lambda result, bar: (
                bar if is_float(result) else np.zeros(result.shape, jax.dtypes.float0)
            ),
            results,
            bar,
        )
    )


def _nan_leaves(name: str, tree: Any) -> list[str]:
    return [
        name + jax.tree_util.keystr(path)
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
        if _has_nan(leaf)
    ]


def _has_nan(leaf: Any) -> bool:
    return is_float(leaf) and bool(jnp.isnan(leaf).any())
