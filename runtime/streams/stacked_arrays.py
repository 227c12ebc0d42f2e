"""A source of stacked arrays: a pytree of arrays or memmaps whose leading axis counts the rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metagrad.runtime.schedules.arguments import MOST_STEPS
from metagrad.runtime.streams.batch_shards import Rows
from metagrad.runtime.streams.layout import BatchLayout, layout_of
from metagrad.runtime.streams.leaves import as_array, is_real, is_torch_tensor
from metagrad.runtime.streams.mapped_pages import MappedPages
from metagrad.runtime.streams.order import checked_order

_LONGEST_TUPLE = 8
"""Entries of a tuple that may be the parts of a batch, though they are alike."""


class StackedArrays:
    """Batch t is entry t of each array; with an order, the rows order[t] of each.

    Arrays of NumPy and PyTorch are used where they are; those of JAX are brought to the host, once.
    Other objects with a shape, a dtype and an index (h5py's datasets, say) are asked row by row.
    Shapes in place of arrays are enough to lower for, and cannot be read.
    """

    reads_many = True

    def __init__(self, source: Any, order: Any):
        with_paths, self._structure = jax.tree_util.tree_flatten_with_path(source)
        if not with_paths:
            raise ValueError("Stream(source): source has no arrays")
        _refuse_batches_one_by_one(source)
        paths = [f"source{jax.tree_util.keystr(path)}" for path, _ in with_paths]
        self._rows = [_rows_of(path, value) for path, (_, value) in zip(paths, with_paths)]
        self._dtypes = [_dtype_of(value) for _, value in with_paths]
        # The axes of key data are not axes of keys.
        self._shapes = [tuple(value.shape) for _, value in with_paths]
        length = _common_length(paths, self._shapes)
        self._order = None if order is None else checked_order(order, length)
        arrays = [value for _, value in with_paths]
        shapes = [path for path, rows in zip(paths, self._rows) if _is_shape(rows)]
        self.shape_at = next(iter(shapes), None)
        self._pages = MappedPages(arrays, scattered=self._order is not None)
        self.steps = length if self._order is None else len(self._order)
        if self.steps > MOST_STEPS:
            raise ValueError(f"Stream: {self.steps:,} steps are more than a run can have")

    def layout(self) -> BatchLayout:
        leading = () if self._order is None else self._order.shape[1:]
        avals = [
            jax.ShapeDtypeStruct(shape[1:], dtype)
            for shape, dtype in zip(self._shapes, self._dtypes)
        ]
        return layout_of(jax.tree.unflatten(self._structure, avals), leading)

    def read(
        self,
        first: int,
        layout: BatchLayout,
        buffers: list[np.ndarray],
        rows: Sequence[Rows | None],
    ) -> None:
        count = len(buffers[0])
        try:
            if self._order is None or self._order.ndim == 1:
                index: Any = range(first, first + count)
                if self._order is not None:
                    index = self._order[first : first + count].astype(np.intp, copy=False)
                for position, (buffer, own) in enumerate(zip(buffers, rows)):
                    self._read(position, index, buffer, own)
            else:
                batches = self._order[first : first + count].astype(np.intp, copy=False)
                for position, (buffer, own) in enumerate(zip(buffers, rows)):
                    index = (batches if own is None else batches[:, own]).reshape(-1)
                    self._read(position, index, _by_rows(buffer, 2))
        except Exception as error:
            others = f", or one up to {first + count - 1}" if count > 1 else ""
            error.add_note(f"batch {first} of the stream{others}")
            raise

    def _read(
        self, position: int, index: range | np.ndarray, buffer: np.ndarray, own: Rows | None = None
    ) -> None:
        """Reads rows of an array into a buffer [rows, ...], memmaps in parts.

        Args:
          own: the entries that are read of each row; None: all.
        """
        rows = self._rows[position]
        at_once = self._pages.rows_at_once or max(1, len(index))
        for start in range(0, len(index), at_once):
            part = slice(start, start + at_once)
            if own is None:
                copy_rows(rows, index[part], buffer[part])
            else:
                for out, row in zip(buffer[part], index[part]):
                    np.copyto(out, np.asarray(rows[row][own]), casting="unsafe")
            self._pages.touched()


def is_array_like(value: Any) -> bool:
    """Whether it has a shape, a dtype and an index, or is a `jax.ShapeDtypeStruct`."""
    return _is_shape(value) or all(
        hasattr(value, name) for name in ("shape", "dtype", "__getitem__")
    )


def _is_shape(value: Any) -> bool:
    return isinstance(value, jax.ShapeDtypeStruct)


def copy_rows(rows: Any, index: range | np.ndarray, out: np.ndarray) -> None:
    """out[...] = rows[index], reading no other rows.

    Args:
      rows: an array, or an object with `rows[i]`.
      index: a range of step 1, or an array of integers [n]; all are known to be in bounds.
      out: of the shape of rows[index]; the values are cast to its dtype.
    """
    if isinstance(index, range):
        np.copyto(out, np.asarray(rows[index.start : index.stop]), casting="unsafe")
    elif not isinstance(rows, np.ndarray):
        for position, row in enumerate(index.tolist()):
            np.copyto(out[position, ...], np.asarray(rows[row]), casting="unsafe")
    elif _can_be_taken(rows, out):
        # "clip" is the mode that writes to `out` without a buffer; no index is out of bounds.
        np.take(rows, index, axis=0, out=out, mode="clip")
    else:
        np.copyto(out, rows[index], casting="unsafe")


def _can_be_taken(rows: np.ndarray, out: np.ndarray) -> bool:
    """Whether `np.take` gathers straight from these rows.

    It makes a copy of the whole array first, a memmap too, if its memory is not C-contiguous,
    aligned and in this machine's byte order, and another of the result for another dtype.
    """
    is_plain = rows.flags.c_contiguous and rows.flags.aligned and rows.dtype.isnative
    return is_plain and rows.dtype == out.dtype


def _by_rows(buffer: np.ndarray, axes: int) -> np.ndarray:
    """The buffer with its leading axes as one."""
    rows = 1
    for extent in buffer.shape[:axes]:
        rows *= extent
    return buffer.reshape(rows, *buffer.shape[axes:])


def _rows_of(path: str, value: Any) -> Any:
    if not is_array_like(value):
        raise TypeError(
            f"Stream(source): {path} is of type {type(value).__name__}, not an array. A tuple or a "
            "dict is a pytree of arrays whose leading axis counts the rows. For batches or rows "
            "one by one, give a list; for a dataset, the dataset itself."
        )
    if hasattr(value, "iloc"):
        raise TypeError(
            f"Stream(source): {path} is indexed by labels; give its array: {path}.to_numpy()"
        )
    if len(value.shape) == 0:
        raise ValueError(
            f"Stream(source): {path} has no leading axis: it is one number, and the leading axis "
            "of a source counts its rows. A constant belongs in meta, or is captured by the step."
        )
    if isinstance(value, (np.ndarray, jax.Array)) or is_torch_tensor(value):
        return _host_array(path, value)
    is_key = _is_shape(value) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key)
    if not (is_key or is_real(value.dtype)):
        raise TypeError(f"Stream(source): {path} has the dtype {value.dtype}, not real numbers")
    return value


def _host_array(path: str, value: Any) -> np.ndarray:
    try:
        # Without the class: a memmap's own `__getitem__` and `__array_wrap__` cost time.
        return as_array(value).view(np.ndarray)
    except TypeError as error:
        raise TypeError(
            f"Stream(source): {path} {error}. A stream gives arrays of real numbers."
        ) from error


def _dtype_of(value: Any) -> Any:
    if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        return value.dtype
    return as_array(value).dtype if is_torch_tensor(value) else value.dtype


def _common_length(paths: list[str], shapes: list[tuple[int, ...]]) -> int:
    for path, shape in zip(paths, shapes):
        if shape[0] != shapes[0][0]:
            raise ValueError(
                f"Stream(source): {path} has {shape[0]:,} rows, and {paths[0]} has "
                f"{shapes[0][0]:,}. The leading axis counts the rows, so it is the same for all."
            )
    if shapes[0][0] == 0:
        raise ValueError(f"Stream(source): {paths[0]} has no rows")
    return shapes[0][0]


def _refuse_batches_one_by_one(source: Any) -> None:
    """Refuses a long tuple of alike entries, which are batches one by one, most likely."""
    if type(source) is not tuple or len(source) <= _LONGEST_TUPLE:
        return
    kinds = {
        (
            jax.tree.structure(entry),
            *(getattr(leaf, "shape", None) for leaf in jax.tree.leaves(entry)),
        )
        for entry in source
    }
    if len(kinds) == 1:
        raise ValueError(
            f"Stream(source): source is a tuple of {len(source)} entries that are alike, as if "
            "they were the batches one by one. A tuple is a pytree of arrays whose leading axis "
            "counts the rows. Give a list of batches: Stream(list(source)). If the entries are the "
            "parts of a batch, give a dict or a NamedTuple."
        )
