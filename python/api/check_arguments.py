"""A compiled program checks what it is called with, and takes the arrays out of it."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metagrad.api.flat_arguments import CallSignature, FlatArguments
from metagrad.frontend.pytrees import Leaf, Tree, describe, shaped, to_stored


class Inputs:
    """From the arguments of a call to the arrays that a program takes."""

    def __init__(self, trees: tuple[Tree, Tree, Tree, Tree]):
        """For arguments that look like `trees`: state, meta, batches, outer_args."""
        self._trees = trees
        is_array = [flag for tree in self._trees for flag in tree.is_array]
        positions = [position for position, flag in enumerate(is_array) if flag]
        # Where each array leaf stands among all leaves of the arguments.
        leaves = [leaf for tree in trees for leaf in tree.leaves]
        self._leaf_at: dict[int, Leaf] = dict(zip(positions, leaves))
        # The last call that was checked, and which of its leaves need converting.
        self._accepted: tuple[CallSignature | None, list[int]] = None, []

    def arrays(self, arguments: FlatArguments) -> list:
        """The array leaves as the program takes them.

        A call like the last one is not checked again.

        Raises:
          TypeError: as `check`.
        """
        signature, to_convert = self._accepted
        if signature is None or not arguments.signature.is_same(signature):
            self.check(arguments.trees)
            to_convert = self._to_convert(arguments.signature)
            self._accepted = arguments.signature, to_convert
        leaves = list(arguments.leaves)
        for position in {*to_convert, *arguments.not_jax}:
            leaves[position] = to_stored(self._leaf_at[position], leaves[position])
        return [leaves[position] for position in self._leaf_at]

    def _to_convert(self, signature: CallSignature) -> list[int]:
        """Positions of the JAX arrays that have to be converted for the program.

        These are typed keys, and arrays of another dtype or of a weak type.
        """
        return [
            position
            for position, leaf in self._leaf_at.items()
            if signature.avals[position] != (leaf.stored.shape, leaf.stored.dtype, False)
        ]

    def check(self, trees: tuple) -> None:
        """Compares (state0, meta, batches, outer_args) with what the program was compiled for.

        Raises:
          TypeError: a structure, a shape, a dtype or a constant differs; the message names it.
        """
        for tree, value in zip(self._trees, trees):
            _check_tree(tree, value)


def _check_tree(tree: Tree, value: Any) -> None:
    if jax.tree.structure(value) != tree.structure:
        raise TypeError(
            f"{tree.name} has the structure {jax.tree.structure(value)}, "
            f"and this program was compiled for {tree.structure}"
        )
    leaves, constants = iter(tree.leaves), iter(tree.constants)
    for (path, leaf), is_array in zip(
        jax.tree_util.tree_flatten_with_path(value)[0], tree.is_array
    ):
        if is_array:
            _check_array(next(leaves), leaf)
        elif (constant := next(constants)) is not leaf and not _equal(constant, leaf):
            raise TypeError(
                f"{tree.name}{jax.tree_util.keystr(path)} is {leaf!r}, "
                f"and this program was compiled for {constant!r}"
            )


def _check_array(leaf: Leaf, value: Any) -> None:
    described = describe(leaf.path, value)
    if described is None:
        raise TypeError(
            f"{leaf.path} is {value!r}, and this program was compiled for {shaped(leaf.aval)}"
        )
    shape, dtype = described.aval.shape, described.aval.dtype
    if shape != leaf.aval.shape:
        raise TypeError(
            f"{leaf.path} has shape {shape}, and this program was compiled for {leaf.aval.shape}"
        )
    # A Python scalar takes the dtype that the program has, if that is of its kind or above.
    if dtype != leaf.aval.dtype and not (
        getattr(described.aval, "weak_type", False) and _rank(dtype) <= _rank(leaf.aval.dtype)
    ):
        raise TypeError(
            f"{leaf.path} is {dtype}, and this program was compiled for {leaf.aval.dtype}"
        )


def _rank(dtype) -> int:
    """Booleans below integers below floating point; keys apart."""
    kinds = (np.bool_, np.integer, np.floating, jax.dtypes.prng_key)
    return next(rank for rank, kind in enumerate(kinds) if jnp.issubdtype(dtype, kind))


def _equal(constant: Any, value: Any) -> bool:
    return (
        type(constant) is type(value) and not hasattr(constant, "dtype") and bool(constant == value)
    )
