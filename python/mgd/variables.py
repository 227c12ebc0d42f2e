"""The part of a pytree that is optimised: its floating-point leaves.

The rest (counters of an optimiser's state, say) stays as it is. Optimisers and projections see the
same tree with None in the place of the rest, which is no leaf for JAX.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from metagrad.frontend.dtypes import is_float


class Variables:
    """Takes the floating-point leaves out of a tree, and puts new ones in.

    Args:
      tree: any pytree. Python floats and NumPy arrays become JAX arrays with JAX's dtypes, so that
        every round has the types of the first.
      name: what users call the tree, for messages.

    Attributes:
      start: the tree as it was given, its floats as JAX arrays.
      paths: of the floating-point leaves, in their order.

    Raises:
      TypeError: no leaf is floating-point.
    """

    def __init__(self, tree: Any, name: str):
        with_paths = jax.tree_util.tree_flatten_with_path(tree)[0]
        self._structure: Any = jax.tree.structure(tree)
        self._leaves = [_as_array(leaf) for _, leaf in with_paths]
        self._are_floats = [is_float(leaf) for leaf in self._leaves]
        self.paths = [
            name + jax.tree_util.keystr(path)
            for (path, _), floats in zip(with_paths, self._are_floats)
            if floats
        ]
        if not self.paths:
            raise TypeError(
                f"{name} has no floating-point leaf, so there is nothing to optimise. "
                "Metaparameters are floats: 1.0, not 1."
            )
        self._name = name
        self.start = jax.tree.unflatten(self._structure, self._leaves)

    @property
    def floats(self) -> Any:
        """The floating-point leaves of `start`, None for the others."""
        return self.of(self.start)

    def of(self, tree: Any) -> Any:
        """The floating-point leaves of a tree with this structure, None for the others."""
        leaves = self._structure.flatten_up_to(tree)
        kept = [leaf if floats else None for leaf, floats in zip(leaves, self._are_floats)]
        return self._structure.unflatten(kept)

    def merged(self, floats: Any) -> Any:
        """The whole tree, with these floating-point leaves."""
        new = iter(jax.tree.leaves(floats))
        leaves = [next(new) if is_new else leaf for leaf, is_new in self._pairs()]
        return self._structure.unflatten(leaves)

    def checked(self, floats: Any, whose: str) -> Any:
        """Floating-point leaves that a function of the user returned, in the dtypes of the start.

        Raises:
          TypeError, ValueError: another structure, or another shape; the message names the leaf.
        """
        expected = self.floats
        structure: Any = jax.tree.structure(expected)
        if structure != jax.tree.structure(floats):
            raise TypeError(
                f"{whose} returned {jax.tree.structure(floats)}, and {self._name} is {structure}"
            )
        pairs = zip(self.paths, jax.tree.leaves(expected), jax.tree.leaves(floats))
        leaves = []
        for path, before, after in pairs:
            if jnp.shape(after) != before.shape:
                raise ValueError(
                    f"{whose} returned shape {jnp.shape(after)} for {path}, whose shape is "
                    f"{before.shape}"
                )
            leaves.append(jnp.asarray(after, before.dtype))
        return jax.tree.unflatten(structure, leaves)

    def check_shapes(self, floats: Any, whose: str) -> None:
        """Checks floating-point leaves of this structure, and leaves them as they are.

        Raises:
          ValueError: another shape; the message names the leaf.
        """
        leaves = self._structure.flatten_up_to(floats)
        places = [place for place, is_new in enumerate(self._are_floats) if is_new]
        for path, place in zip(self.paths, places):
            expected, shape = jnp.shape(self._leaves[place]), jnp.shape(leaves[place])
            if shape != expected:
                raise ValueError(f"{whose} has shape {shape} for {path}, whose shape is {expected}")

    def _pairs(self):
        return zip(self._leaves, self._are_floats)


def _as_array(leaf: Any) -> Any:
    """A float as an array with a dtype of its own: a Python float takes that of what it meets."""
    if is_float(leaf) or isinstance(leaf, float):
        return jnp.asarray(leaf, jnp.result_type(jnp.asarray(leaf).dtype))
    return leaf
