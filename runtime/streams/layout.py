"""What all batches of a stream have in common: structure, paths, shapes and dtypes."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metagrad.runtime import jax_internals
from metagrad.runtime.streams.leaves import (
    as_array,
    check_range,
    flatten,
    flatten_with_path,
    native,
)


@dataclasses.dataclass(frozen=True)
class BatchLeaf:
    """One array of a batch.

    Attributes:
      path: as a user writes it, `batches['x']`.
      aval: shape and dtype as the step sees it (a key array for typed keys).
      stored: shape and dtype as a program takes it (the key data for typed keys).
    """

    path: str
    aval: jax.ShapeDtypeStruct
    stored: jax.ShapeDtypeStruct

    @property
    def is_float(self) -> bool:
        return jnp.issubdtype(self.aval.dtype, jnp.floating)


@dataclasses.dataclass(frozen=True)
class BatchLayout:
    """The structure of a batch and its arrays.

    Attributes:
      structure: the pytree's.
      leaves: its arrays.
      x64: the setting that the dtypes follow. It is that of the thread which made the layout; the
        threads that read have settings of their own.
    """

    structure: Any
    leaves: tuple[BatchLeaf, ...]
    x64: bool

    @functools.cached_property
    def aval(self) -> Any:
        """The pytree of `jax.ShapeDtypeStruct`s of one batch."""
        return jax.tree.unflatten(self.structure, [leaf.aval for leaf in self.leaves])

    @property
    def nbytes(self) -> int:
        """Bytes of one batch."""
        return sum(leaf.stored.size * leaf.stored.dtype.itemsize for leaf in self.leaves)

    def without_leading(self, axes: int) -> BatchLayout:
        """The layout of one row of these batches, which have `axes` axes of rows."""
        leaves = tuple(
            BatchLeaf(leaf.path, _row(leaf.aval, axes), _row(leaf.stored, axes))
            for leaf in self.leaves
        )
        return dataclasses.replace(self, leaves=leaves)

    def with_leading(self, axes: tuple[int, ...]) -> BatchLayout:
        """The layout of batches with these axes in front of the others in each leaf."""
        wider = lambda aval: jax.ShapeDtypeStruct((*axes, *aval.shape), aval.dtype)
        leaves = tuple(
            BatchLeaf(leaf.path, wider(leaf.aval), wider(leaf.stored)) for leaf in self.leaves
        )
        return dataclasses.replace(self, leaves=leaves)

    def unflatten(self, stored: list) -> Any:
        """A pytree from arrays as a program takes them: key data become typed keys again."""
        return jax.tree.unflatten(
            self.structure,
            [
                array if leaf.aval.dtype == leaf.stored.dtype else _wrapped(leaf, array)
                for leaf, array in zip(self.leaves, stored)
            ],
        )

    def gradient(self, of_floats: list, leading: tuple[int, ...] = ()) -> Any:
        """A pytree of gradients, with float0 zeros for the leaves that are not floating point.

        Args:
          of_floats: the gradients of the floating-point leaves, in order.
          leading: axes that these have before those of a batch.
        """
        remaining = iter(of_floats)
        return jax.tree.unflatten(
            self.structure,
            [
                next(remaining) if leaf.is_float else _float0((*leading, *leaf.aval.shape))
                for leaf in self.leaves
            ],
        )

    def arrays(self, batch: Any, name: str) -> list[np.ndarray]:
        """The arrays of a batch, once they are found to have this layout.

        Args:
          batch: what the source gave.
          name: what to call it: "batch 7 of the stream".

        Raises:
          ValueError: structure, shape or dtype differ from those of batch 0.
          TypeError: a leaf is not an array of numbers.
          OverflowError: a Python integer does not fit the program's dtype.
        """
        values, structure = flatten(batch)
        if structure != self.structure:
            raise ValueError(
                f"{name} has the structure {structure}, and batch 0 has {self.structure}. "
                "All batches must have the same structure."
            )
        return [self._array(leaf, value, name) for leaf, value in zip(self.leaves, values)]

    def _array(self, leaf: BatchLeaf, value: Any, name: str) -> np.ndarray:
        # Most leaves, and rows of a dataset come by the thousand: what needs no further look.
        is_array = type(value) is np.ndarray
        if is_array and (value.shape, value.dtype) == (leaf.stored.shape, leaf.stored.dtype):
            return value
        array = array_of(leaf.path, value, name)
        self._check(leaf, array, value, name)
        return array

    def _check(self, leaf: BatchLeaf, array: np.ndarray, value: Any, name: str) -> None:
        if array.shape != leaf.stored.shape:
            raise ValueError(
                f"{leaf.path} of {name} has shape {array.shape}, and that of batch 0 has "
                f"{leaf.stored.shape}. All batches must have the same shapes: pad or crop, or "
                "drop the last, smaller batch."
            )
        expected = leaf.stored.dtype
        if array.dtype != expected and program_dtype(array.dtype, self.x64) != expected:
            raise ValueError(
                f"{leaf.path} of {name} is {array.dtype}, and that of batch 0 is {expected}. "
                "All batches must have the same dtypes."
            )
        try:
            check_range(array, value, expected)
        except OverflowError as error:
            raise OverflowError(f"{leaf.path} of {name} {error}; enable jax_enable_x64") from None


def array_of(path: str, value: Any, name: str) -> np.ndarray:
    """`as_array`, with errors that name the leaf and the batch."""
    try:
        return as_array(value)
    except TypeError as error:
        raise TypeError(
            f"{path} of {name} {error}. A stream gives arrays of real numbers: leave this out, or "
            "convert it in the dataset."
        ) from error
    except ValueError as error:
        raise ValueError(
            f"{path} of {name} cannot be made an array: {error}. If its rows have different "
            "lengths, pad or crop them."
        ) from error


def layout_of(raw: Any, leading: tuple[int, ...] = ()) -> BatchLayout:
    """The layout of a batch under the present x64 setting.

    Args:
      raw: a pytree of `jax.ShapeDtypeStruct`s, with the dtypes that the source has.
      leading: axes that stand before those of `raw`.
    """
    x64 = jax_internals.setting("jax_enable_x64")
    with_paths, structure = jax.tree_util.tree_flatten_with_path(raw)
    leaves = tuple(
        _leaf(f"batches{jax.tree_util.keystr(path)}", leading + aval.shape, aval.dtype, x64)
        for path, aval in with_paths
    )
    return BatchLayout(structure, leaves, x64)


def raw_avals(batch: Any, name: str) -> Any:
    """Shapes and dtypes of a batch as the source gives it.

    Raises:
      TypeError, ValueError: a leaf is not an array of numbers, or there is none.
    """
    with_paths, structure = flatten_with_path(batch)
    if not with_paths:
        raise ValueError(f"{name} has no arrays: {batch!r:.100}")
    avals = [
        raw_aval(f"batches{jax.tree_util.keystr(path)}", value, name) for path, value in with_paths
    ]
    return jax.tree.unflatten(structure, avals)


def raw_aval(path: str, value: Any, name: str) -> jax.ShapeDtypeStruct:
    if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        return jax.ShapeDtypeStruct(value.shape, value.dtype)
    array = array_of(path, value, name)
    return jax.ShapeDtypeStruct(array.shape, array.dtype)


def _leaf(path: str, shape: tuple[int, ...], dtype: Any, x64: bool) -> BatchLeaf:
    if jnp.issubdtype(dtype, jax.dtypes.prng_key):
        aval = jax.ShapeDtypeStruct(shape, dtype)
        data = jax.eval_shape(jax.random.key_data, aval)
        return BatchLeaf(path, aval, jax.ShapeDtypeStruct(data.shape, data.dtype))
    aval = jax.ShapeDtypeStruct(shape, program_dtype(dtype, x64))
    return BatchLeaf(path, aval, aval)


@functools.cache
def program_dtype(dtype: Any, x64: bool) -> np.dtype:
    """What JAX makes of a dtype under an x64 setting: float32 of float64, without it."""
    with jax.enable_x64(x64):
        return jax.typeof(np.empty(0, native(dtype))).dtype


def _row(aval: jax.ShapeDtypeStruct, axes: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(aval.shape[axes:], aval.dtype)


def _wrapped(leaf: BatchLeaf, data: Any) -> jax.Array:
    return jax.random.wrap_key_data(data, impl=jax_internals.key_implementation(leaf.aval.dtype))


def _float0(shape: tuple[int, ...]) -> np.ndarray:
    """The zero cotangent of what is not floating point. It takes no memory, whatever the shape."""
    return np.broadcast_to(np.zeros((), jax.dtypes.float0), shape)
