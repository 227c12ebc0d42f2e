"""The result of a streamed run, from what it ended with."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from metagrad.api.streamed_program import StreamedProgram
from metagrad.api.user_frame import users_level
from metagrad.diagnostics.first_nan import enumerate_paths
from metagrad.diagnostics.non_finite_warning import faults
from metagrad.diagnostics.of_queries import enumerate_queries
from metagrad.frontend.dtypes import is_float
from metagrad.runtime.executors.collectors import Rows
from metagrad.runtime.executors.streamed import Arguments, Standing


def assemble(
    program: StreamedProgram,
    arguments: Arguments,
    standing: Standing,
    aux: Rows | None,
    of_batches: Any,
) -> Any:
    """The result as the user gets it.

    Args:
      of_batches: the gradient in the batches, as a pytree; None if it is not wanted, or went to a
        function of the user's.
    """
    layout, signature = program.layout, program.signature
    of_group = {
        "state": (layout.state_bar, standing.state_bar, signature.state),
        "meta": (layout.meta_bar, standing.meta_bar, signature.meta),
    }
    queries = standing.value[0].shape
    gradient: list[Any] = []
    for name in signature.differentiated:
        floats = layout.float_leaves[name]
        if name == "batches":
            gradient += [None] * len(floats)
            continue
        carried, cotangents, tree = of_group[name]
        of_leaf = dict(zip(carried, cotangents))
        gradient += [_or_zeros(of_leaf.get(i), queries, tree.leaves[i].stored) for i in floats]
    final = layout.whole_state(arguments.state0, standing.final)
    stacks: Sequence[Any] = aux.stacks if aux is not None else []
    result = signature.unflatten([*standing.value, *gradient, *map(jnp.asarray, final), *stacks])
    if "batches" not in signature.wrt:
        return result
    if signature.single:
        return result._replace(grad=of_batches)
    grads = [of_batches if w == "batches" else g for w, g in zip(signature.wrt, result.grad)]
    return result._replace(grad=tuple(grads))


def _or_zeros(cotangent: Any, queries: tuple[int, ...], like: jax.ShapeDtypeStruct) -> jax.Array:
    if cotangent is None:
        return jnp.zeros((*queries, *like.shape), like.dtype)
    return jnp.asarray(cotangent)


def check_finite(program: StreamedProgram, result: Any) -> None:
    """Looks at a result as `check_nans` says.

    Raises:
      FloatingPointError: with `check_nans=True`, something is not finite.

    Warns:
      RuntimeWarning: by default, the same.
    """
    check_nans = program.options.check_nans
    if check_nans is False:
        return
    signature = program.signature
    paths, queries = faults(result, signature.wrt, signature.single, signature.has_aux)
    if not paths and not _has_nan(result.state):
        return
    where = (
        f"a NaN or infinity in {enumerate_paths(paths)}{enumerate_queries(queries)}"
        if paths
        else "a NaN in the final state"
    )
    message = (
        f"the metagradient has {where}. At which step it began is found for stacked batches only: "
        "give those of fewer steps as arrays."
    )
    if check_nans:
        raise FloatingPointError(message)
    message += " (check_nans=False in metagradient() turns this check off.)"
    warnings.warn(message, RuntimeWarning, stacklevel=users_level())


def _has_nan(tree: Any) -> bool:
    return any(bool(jnp.isnan(leaf).any()) for leaf in jax.tree.leaves(tree) if is_float(leaf))
