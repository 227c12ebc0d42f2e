"""The result of a streamed run, from what it ended with."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metagrad.api.signature import Signature
from metagrad.api.streamed_executable import StreamedExecutable
from metagrad.api.user_frame import users_level
from metagrad.diagnostics.not_finite import faults, is_finite
from metagrad.diagnostics.of_queries import enumerate_queries
from metagrad.diagnostics.paths import enumerate_paths
from metagrad.frontend.dtypes import is_float
from metagrad.runtime.executors.collectors import BatchGradients, Rows
from metagrad.runtime.executors.streamed import Arguments, Standing
from metagrad.runtime.streams.batch_shards import with_leading_axes


def assemble(
    program: StreamedExecutable,
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
        arrays = arguments.state0 if name == "state" else arguments.meta
        gradient += [
            _or_zeros(of_leaf.get(i), queries, tree.leaves[i].stored, arrays[i]) for i in floats
        ]
    final = layout.whole_state(arguments.state0, standing.final)
    stacks: Sequence[Any] = aux.stacks if aux is not None else []
    result = signature.unflatten([*standing.value, *gradient, *map(jnp.asarray, final), *stacks])
    if "batches" not in signature.wrt:
        return result
    if queries:  # The sink has rows [T, Q, ...].
        of_batches = jax.tree.map(lambda stack: np.swapaxes(stack, 0, 1), of_batches)
    if signature.single:
        return result._replace(grad=of_batches)
    grads = [of_batches if w == "batches" else g for w, g in zip(signature.wrt, result.grad)]
    return result._replace(grad=tuple(grads))


def _or_zeros(
    cotangent: Any, queries: tuple[int, ...], like: jax.ShapeDtypeStruct, primal: Any
) -> jax.Array:
    if cotangent is None:
        device = None
        if isinstance(primal, jax.Array) and primal.sharding.num_devices > 1:
            device = with_leading_axes(primal.sharding, len(queries))
        return jnp.zeros((*queries, *like.shape), like.dtype, device=device)
    return jnp.asarray(cotangent)


def check_finite(
    program: StreamedExecutable, result: Any, batch_bar: BatchGradients | None, raises: bool | None
) -> None:
    """Looks at a result as `check_nans` says.

    Args:
      batch_bar: what the gradients of the batches went through, if there are any.
      raises: whether there is an error instead of a warning, `check_nans=False` or not.

    Raises:
      FloatingPointError: something is not finite.

    Warns:
      RuntimeWarning: by default, the same.
    """
    if program.options.check_nans is False and not raises:
        return
    signature = program.signature
    value = result.value[0] if signature.has_aux else result.value
    result = result._replace(grad=_without_batches(signature, result.grad))
    floats = lambda tree: [leaf for leaf in jax.tree.leaves(tree) if is_float(leaf)]
    paths, queries = _batch_faults(program, batch_bar)
    if not paths and _is_finite([value, *floats(result.grad)], floats(result.state)):
        return
    # The gradients of batches need not fit into memory: of them there are notes.
    others, of_others = faults(result, signature.wrt, signature.single, signature.has_aux)
    paths, queries = [*others, *paths], sorted({*of_others, *queries})
    where = (
        f"a NaN or infinity in {enumerate_paths(paths)}{enumerate_queries(queries)}"
        if paths
        else "a NaN in the final state"
    )
    # The search needs the step, and batches that it can have all at once.
    origin = (
        "At which step it began is not looked for: a file does not hold the step."
        if program.is_loaded
        else "At which step it began is found for stacked batches only: give those of fewer steps "
        "as arrays."
    )
    message = f"the metagradient has {where}. {origin}"
    if raises:
        raise FloatingPointError(message)
    place = "load()" if program.is_loaded else "metagradient()"
    message += f" (check_nans=False in {place} turns this check off.)"
    warnings.warn(message, RuntimeWarning, stacklevel=users_level())


_is_finite = jax.jit(is_finite)
"""One program for all leaves, where a call for each would take longer than a step."""


def _without_batches(signature: Signature, grad: Any) -> Any:
    if signature.single:
        return None if signature.wrt == ("batches",) else grad
    return tuple(None if w == "batches" else g for w, g in zip(signature.wrt, grad))


def _batch_faults(
    program: StreamedExecutable, batch_bar: BatchGradients | None
) -> tuple[list[str], list[int]]:
    """What is not finite of the gradients of batches, and the queries in which."""
    if batch_bar is None:
        return [], []
    leaves = program.signature.batches.leaves
    floats = program.layout.float_leaves["batches"]
    paths = [
        f"the gradient of {leaves[i].path}"
        for i, faulty in zip(floats, batch_bar.faulty)
        if faulty.any()
    ]
    queries = np.flatnonzero(batch_bar.faulty.any(axis=0)).tolist()
    return paths, queries if program.queries else []
