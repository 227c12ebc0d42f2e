"""The gradient in a leaf of a weak type has the dtype that the leaf was given with, as JAX's has.

A Python number and an array made of one have a weak type. The program takes them in the dtype of
what they meet in the step, and gives the gradient in that: float32 for a weak float64 beside a
float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from metagrad.api.flat_arguments import FlatArguments
from metagrad.api.signature import Signature
from metagrad.frontend.pytrees import Tree


def with_given_dtypes(result: Any, signature: Signature, arguments: FlatArguments) -> Any:
    """A result whose gradient has the dtypes of a call's arguments.

    Args:
      result: a `Result` or a `ResultWithAux` of the program.
      signature: the program's.
      arguments: of the call.
    """
    avals = arguments.signature.avals
    if not any(aval is not None and aval[2] for aval in avals):
        return result
    trees = {"state": signature.state, "meta": signature.meta}
    if arguments.stream is None:  # the batches of a stream are not among the leaves
        trees["batches"] = signature.batches
    gradients = dict(zip(signature.wrt, [result.grad] if signature.single else result.grad))
    first = 0
    for name, tree in trees.items():
        dtypes = _to_convert(tree, avals[first:])
        first += len(tree.is_array)
        if name in gradients and any(dtype is not None for dtype in dtypes):
            gradients[name] = _converted(gradients[name], dtypes)
    grad = gradients[signature.wrt[0]] if signature.single else tuple(gradients.values())
    return result._replace(grad=grad)


def _to_convert(tree: Tree, avals: Sequence[tuple | None]) -> list[Any]:
    """For each leaf the dtype that it was given in, if its gradient has another; otherwise None.

    None for an integer that the program takes as a float: its gradient is a float.
    """
    leaves = iter(tree.leaves)
    dtypes: list[Any] = []
    for is_array, aval in zip(tree.is_array, avals):
        dtypes.append(None)
        if is_array and aval is not None:
            leaf, (_, given, is_weak, *_) = next(leaves), aval
            is_float = leaf.is_float and jnp.issubdtype(given, jnp.floating)
            if is_weak and is_float and given != leaf.stored.dtype:
                dtypes[-1] = given
    return dtypes


def _converted(gradient: Any, dtypes: Sequence[Any]) -> Any:
    """The gradient's leaves in `dtypes`; None leaves one as it is."""
    leaves, structure = jax.tree.flatten(gradient)
    return jax.tree.unflatten(
        structure,
        [leaf if dtype is None else leaf.astype(dtype) for leaf, dtype in zip(leaves, dtypes)],
    )
