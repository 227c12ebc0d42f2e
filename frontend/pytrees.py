"""Pytrees as the compiler sees them: flat lists of arrays, each with the path that users write.

Typed PRNG keys travel as their key data. Leaves that are not arrays (an activation function in an
Equinox module, a string) are constants of the compilation: they are kept aside and put back.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metagrad.frontend import dtypes
from metagrad.frontend.jaxprs import auto_axes
from metagrad.runtime import jax_internals
from metagrad.runtime.host_arrays import copy_for_xla


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One array leaf of a user's pytree.

    Attributes:
      path: as the user would write it, `state['opt'][0].mu['w']`.
      aval: shape and dtype as the user's function sees it (a key array for typed keys); with the
        sharding, if that is in the array's type.
      stored: shape and dtype as the program holds it (the key data for typed keys).
    """

    path: str
    aval: jax.ShapeDtypeStruct
    stored: jax.ShapeDtypeStruct

    @functools.cached_property
    def is_key(self) -> bool:
        return dtypes.is_key(self.aval)

    @functools.cached_property
    def is_float(self) -> bool:
        return dtypes.is_float(self.aval)


@dataclasses.dataclass(frozen=True)
class Tree:
    """The structure of one argument: its array leaves, its constants and how they fit together."""

    name: str
    leaves: tuple[Leaf, ...]
    constants: tuple[Any, ...]
    is_array: tuple[bool, ...]
    structure: Any

    @property
    def count(self) -> str:
        """How many arrays and numbers it has, as text."""
        if len(self.leaves) == 1:
            return shaped(self.leaves[0].aval)
        numbers = sum(math.prod(leaf.aval.shape) for leaf in self.leaves)
        return f"{len(self.leaves)} arrays of {numbers:,} numbers"

    @property
    def shell(self) -> tuple:
        """All of it but the arrays."""
        return self.structure, self.is_array, self.constants

    @functools.cached_property
    def has_keys(self) -> bool:
        return any(leaf.is_key for leaf in self.leaves)

    def arrays(self, tree: Any) -> list:
        """The array leaves of a pytree of this structure, keys as users hold them."""
        return [leaf for leaf, keep in zip(jax.tree.leaves(tree), self.is_array) if keep]

    def unflatten(self, stored: list) -> Any:
        """A pytree from arrays as the program holds them."""
        if self.has_keys:
            stored = [from_stored(leaf, array) for leaf, array in zip(self.leaves, stored)]
        return self.rebuild(stored)

    def rebuild(self, arrays: list) -> Any:
        """A pytree from one value per array leaf, whatever the values are."""
        if not self.constants:
            return jax.tree.unflatten(self.structure, arrays)
        of_arrays, of_constants = iter(arrays), iter(self.constants)
        leaves = [next(of_arrays if keep else of_constants) for keep in self.is_array]
        return jax.tree.unflatten(self.structure, leaves)


def tree_of(name: str, tree: Any) -> Tree:
    """Describes a pytree of arrays, scalars or `jax.ShapeDtypeStruct`s.

    Raises:
      TypeError: a leaf is complex; metagradients are of real functions.
    """
    with_paths, structure = jax.tree_util.tree_flatten_with_path(tree)
    leaves, constants, is_array = [], [], []
    for path, value in with_paths:
        described = describe(name + jax.tree_util.keystr(path), value)
        is_array.append(described is not None)
        if described is None:
            constants.append(value)
        else:
            leaves.append(described)
    return Tree(name, tuple(leaves), tuple(constants), tuple(is_array), structure)


def is_array_leaf(value: Any) -> bool:
    """Whether a leaf is an array, or a number that becomes one. The others are constants."""
    if isinstance(value, (str, bytes)):
        return False
    if hasattr(value, "dtype") or isinstance(value, (bool, int, float, complex)):
        return True
    return hasattr(value, "__jax_array__") and not callable(value)


def describe(path: str, value: Any) -> Leaf | None:
    """What a leaf is as an array, or None for one that is not an array."""
    if not is_array_leaf(value):
        return None
    typed = jax.typeof(value)
    aval = jax.ShapeDtypeStruct(
        typed.shape,
        typed.dtype,
        weak_type=typed.weak_type,
        sharding=auto_axes.explicit_sharding(typed),
    )
    if dtypes.is_complex(aval):
        raise TypeError(
            f"{path} is {aval.dtype.name}; metagrad differentiates real leaves only. Hold real and "
            "imaginary parts apart."
        )
    return Leaf(path, aval, stored_aval(aval))


def shaped(aval) -> str:
    """Shape and dtype as text: `float32[2,3]`."""
    return f"{aval.dtype}[{','.join(map(str, aval.shape))}]"


def stored_aval(aval: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    if not dtypes.is_key(aval):
        return jax.ShapeDtypeStruct(aval.shape, aval.dtype)
    data = jax.eval_shape(jax.random.key_data, aval)
    return jax.ShapeDtypeStruct(data.shape, data.dtype)


def to_stored(leaf: Leaf, array: Any) -> jax.Array | np.ndarray:
    """An array as the program takes it: key data for typed keys, and the program's dtype."""
    if leaf.is_key:
        return jax.random.key_data(array)
    if isinstance(array, np.ndarray):
        return copy_for_xla(array, leaf.stored.dtype)
    return jnp.asarray(array, leaf.stored.dtype)


def from_stored(leaf: Leaf, array: jax.Array) -> jax.Array:
    return jax.random.wrap_key_data(array, impl=key_impl(leaf.aval.dtype)) if leaf.is_key else array


def key_impl(dtype) -> str:
    """The name of a key dtype's generator, as `jax.random.key(..., impl=...)` takes it."""
    return jax_internals.key_implementation(dtype)


def float0(leaf: Leaf, leading: tuple[int, ...] = ()) -> np.ndarray:
    """The zero cotangent of a leaf that is not floating point, as JAX gives it (allow_int=True).

    `leading` are axes before those of the leaf.
    """
    return np.zeros((*leading, *leaf.aval.shape), jax.dtypes.float0)
