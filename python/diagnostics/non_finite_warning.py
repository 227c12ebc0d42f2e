"""The warning for a metagradient that is not finite: the leaf, the step and the root to blame.

The compiled program also returns one boolean, whether value and gradient are finite. A good result
costs no more than reading it. Only when it is false, the training run is made once more, forward,
with a count at each root (singular_roots.py). `check_nans=True` also goes backward, and keeps every
state for that (first_nan.py).
"""

from __future__ import annotations

import inspect
import itertools
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from metagrad.diagnostics.not_finite import all_finite, faults
from metagrad.diagnostics.of_queries import enumerate_queries
from metagrad.diagnostics.paths import enumerate_paths
from metagrad.diagnostics.singular_roots import CountingFunction, Root
from metagrad.frontend.dtypes import is_float
from metagrad.frontend.jaxprs.activity import Activity
from metagrad.frontend.jaxprs.auto_axes import (
    auto_context,
    on_auto_axes,
)
from metagrad.frontend.pytrees import Leaf, Tree


def warning(
    step: core.ClosedJaxpr,
    outer: core.ClosedJaxpr,
    trees: dict[str, Tree],
    active: Activity,
    wrt: tuple[str, ...],
    single: bool,
    has_aux: bool,
) -> Callable:
    """A function of (result, arguments) that gives the text of the warning.

    Args:
      step, outer: the traced functions over flat leaves.
      trees: the state, meta, batches and outer_args.
      active: which leaves carry a derivative.
    """
    names = [
        leaf.path if flag else None
        for leaf, flag in zip(
            _leaves(trees, "state", "meta", "batches"), (*active.state, *active.data), strict=True
        )
    ]

    def text(result: Any, arguments: tuple) -> str:
        paths, queries = faults(result, wrt, single, has_aux)
        where = (
            f"a NaN or infinity in {enumerate_paths(paths)}{enumerate_queries(queries)}"
            if paths
            else "a NaN in the final state"
        )
        leaves = len(active.state)
        outer_names = [*names[:leaves], *(None for _ in trees["outer_args"].leaves)]
        counting_step = CountingFunction(step, names, leaves)
        counting_outer = CountingFunction(outer, outer_names, 1)
        try:
            with auto_context():
                origin = _origin(counting_step, counting_outer, trees, arguments)
        # The search may fail in ways that the run did not (out of memory, say), and the result
        # stands all the same.
        except Exception as error:
            origin = f"Why could not be found out: {type(error).__name__}: {error}."
        return (
            f"the metagradient has {where}. {origin} "
            "(check_nans=False in metagradient() turns this check off.)"
        )

    return text


def _origin(
    counting_step: CountingFunction,
    counting_outer: CountingFunction,
    trees: dict[str, Tree],
    arguments: tuple,
) -> str:
    arrays = {name: _arrays(tree, value) for (name, tree), value in zip(trees.items(), arguments)}
    if paths := [
        leaf.path
        for leaf, array in zip(_leaves(trees, *trees), itertools.chain(*arrays.values()))
        if is_float(array) and jnp.isnan(array).any()
    ]:
        return f"It was in the arguments: {enumerate_paths(paths)}."
    state = trees["state"]

    @jax.jit
    def run(s, meta, batches, outer_args):
        def advance(s, batch):
            results, counts = counting_step(*s, *meta, *batch)
            new = results[: len(s)]
            lost = [all_finite(old) & ~all_finite(leaf) for old, leaf in zip(s, new)]
            return new, (counts, lost)

        final, step_counts_and_lost = jax.lax.scan(advance, s, batches)
        results, outer_counts = counting_outer(*final, *outer_args)
        return step_counts_and_lost, outer_counts, all_finite(results[0])

    (counts, lost), outer_counts, value_is_finite = jax.device_get(run(*arrays.values()))
    lost = np.stack(lost, 1)
    if lost.any():
        t = int(lost.any(1).argmax())
        paths = [leaf.path for leaf, flag in zip(state.leaves, lost[t]) if flag]
        return (
            f"Training itself gave the first: at step {t}, in {enumerate_paths(paths)}. "
            "Lower the learning rate, or look at that batch."
        )
    if not value_is_finite:
        return "Training is finite; the outer function's value is the first."
    for column, describe in enumerate((_describe_zero, _describe_near_zero)):
        if outer_counts[:, column].any():
            first_root = describe(*_first_root(counting_outer.roots, outer_counts[:, column]))
            return f"Training is finite. The outer function, in {first_root}"
        of_steps = counts[:, :, column]
        if of_steps.any():
            t = int(of_steps.any(1).argmax())
            first_root = describe(*_first_root(counting_step.roots, of_steps[t]))
            return f"Training is finite. At step {t} {first_root}"
    return (
        "Training is finite. metagradient(check_nans=True) repeats the run backward "
        "and says at which step a NaN first appears."
    )


def _first_root(roots: list[Root], counts) -> tuple[Root, int, str]:
    """The first root with a count, the count, and what to say of the others."""
    root, count = next((root, count) for root, count in zip(roots, counts) if count)
    more = sum(1 for count in counts if count) - 1
    return root, int(count), f" ({more} more roots do too)" if more else ""


def _describe_zero(root: Root, count: int, others: str) -> str:
    """A root whose derivative is infinite, and what to do about it."""
    return (
        f"{_takes_a_root(root)} of zero or next to it {_of_entries(root, count)}{others}: its "
        f"derivative there is infinite, in jax.grad of the run too. {_remedy(root)}"
    )


def _describe_near_zero(root: Root, count: int, others: str) -> str:
    """A root of what is rounding in the plain run, and may be zero in the compiled one."""
    return (
        f"{_takes_a_root(root)} of almost zero {_of_entries(root, count)}{others}. That may be the "
        "rounding of a number that is zero (the gradient of a bias in front of a normalisation, "
        "say): in a program that rounds in another order it may be exactly zero, and the "
        "derivative infinite. The compiled program and jax.grad of the run need not agree on that. "
        f"{_remedy(root)}"
    )


def _takes_a_root(root: Root) -> str:
    line = f" ({root.line})" if root.line else ""
    return f"{root.function}{line} takes a root (`{root.primitive}`)"


def _of_entries(root: Root, count: int) -> str:
    return (
        f"in {count} of {root.size} entries of what it computes from "
        f"{enumerate_paths(list(root.leaves))}"
    )


def _remedy(root: Root) -> str:
    maker = getattr(sys.modules.get("optax"), root.function, None)
    if maker is not None and "eps_root" in inspect.signature(maker).parameters:
        return (
            "Give the optimiser `eps_root`: optax.adam(1e-3, eps_root=1e-8), "
            "and likewise for its relatives."
        )
    return (
        "Keep what is under the root away from zero (sqrt(x + 1e-8); in optax `eps_root`, "
        "where an optimiser has it), or freeze leaves that have no gradient."
    )


def _arrays(tree: Tree, value: Any) -> list:
    return [
        on_auto_axes(array) if leaf.is_key else jnp.asarray(on_auto_axes(array), leaf.aval.dtype)
        for leaf, array in zip(tree.leaves, tree.arrays(value))
    ]


def _leaves(trees: dict[str, Tree], *names: str) -> list[Leaf]:
    return [leaf for name in names for leaf in trees[name].leaves]
