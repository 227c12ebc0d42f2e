"""Pooling: reductions over windows, what they choose, and the way back.

A window becomes one strided slice of the padded operand for each of its elements; a large one is
reduced axis by axis, each in log2(length) steps of doubling. Of equal elements the first gets the
derivative, in row-major order, as in JAX's select-and-scatter; padding is never chosen. Values and
orders agree with JAX's; sums agree up to rounding.
"""

import math
from collections.abc import Iterator

import numpy as np
from jax import lax

from metagrad.frontend.exact_lowerings.value_and_derivative import stopped

LARGEST_UNROLLED = 64
"""Elements of a window that becomes one slice each."""


def window_sum(x, **window):
    (total,), _ = _reduced([(x, 0)], _added, **window)
    return total


def window_extreme(comes_first, empty):
    """`reduce_window_max` and `reduce_window_min`."""

    def pooling(x, **window):
        # An undefined number stays, as in the value of a maximum.
        (best,), _ = _reduced(
            [(x, empty)], _first(lambda a, b: comes_first(a, b) | (a != a)), **window
        )
        return best

    return pooling


def gather_chosen(tangents, x, *, select_prim, **window):
    """`select_and_gather_add`: of each window of the tangents, that at the place that x chooses."""
    (_, chosen), _ = _reduced(
        [(stopped(x), _worst(select_prim)), (tangents, 0)], _first(select_prim.bind), **window
    )
    return chosen


def scatter_chosen(source, x, *, select_prim, window_dimensions, window_strides, padding):
    """`select_and_scatter_add`: each window's number goes to the place that x chooses."""
    if not source.size:
        return lax.full(x.shape, 0, source.dtype)
    window = {
        "window_dimensions": window_dimensions,
        "window_strides": window_strides,
        "padding": padding,
        "base_dilation": (1,) * x.ndim,
        "window_dilation": (1,) * x.ndim,
    }
    places = lax.broadcast_in_dim(lax.iota(np.int32, x.size), (x.size,), (0,)).reshape(x.shape)
    (_, place), _ = _reduced(
        [(stopped(x), _worst(select_prim)), (places, 0)], _first(select_prim.bind), **window
    )
    numbers = lax.ScatterDimensionNumbers(
        update_window_dims=(), inserted_window_dims=(0,), scatter_dims_to_operand_dims=(0,)
    )
    flat = lax.scatter_add(
        lax.full((x.size,), 0, source.dtype),
        place.reshape(-1, 1),
        source.reshape(-1),
        numbers,
        mode=lax.GatherScatterMode.PROMISE_IN_BOUNDS,
    )
    return flat.reshape(x.shape)


def _worst(select_prim) -> float:
    return float("-inf") if select_prim.name == "ge" else float("inf")


def _added(a, b, _real_a, _real_b):
    return [p + q for p, q in zip(a, b)]


def _first(stays):
    """Chooses between two elements by their first component; one that is padding loses."""

    def choose(a, b, real_a, real_b):
        keep = stays(a[0], b[0])
        if not real_b.all():
            keep = keep | ~real_b
        if not real_a.all():
            keep = keep & real_a
        return [lax.select(keep, p, q) for p, q in zip(a, b)]

    return choose


def _reduced(
    components,
    combine,
    *,
    window_dimensions,
    window_strides,
    padding,
    base_dilation,
    window_dilation,
):
    """Reduces windows of several arrays at once.

    Args:
        components: arrays of one shape, each with what pads it.
        combine: (elements, later elements, which of either are not padding) -> elements.

    Returns:
        The reduced arrays, and which results hold more than padding.
    """
    arrays = [_padded(x, empty, padding, base_dilation) for x, empty in components]
    real = np.zeros(arrays[0].shape, bool)
    real[
        tuple(slice(lo, n - hi, d) for n, (lo, hi), d in zip(real.shape, padding, base_dilation))
    ] = True
    if math.prod(window_dimensions) <= LARGEST_UNROLLED:
        return _unrolled(arrays, real, combine, window_dimensions, window_strides, window_dilation)
    for axis in reversed(range(real.ndim)):
        arrays, real = _doubled(
            arrays,
            real,
            combine,
            axis,
            window_dimensions[axis],
            window_strides[axis],
            window_dilation[axis],
        )
    return arrays, real


def _padded(x, empty, padding, base_dilation):
    return lax.pad(
        x,
        lax.full((), empty, x.dtype),
        [(lo, hi, d - 1) for (lo, hi), d in zip(padding, base_dilation)],
    )


def _unrolled(arrays, real, combine, sizes, strides, dilation):
    """One slice for each element of the window, in row-major order."""
    total, total_real = None, None
    for start, stop in _offsets(real.shape, sizes, dilation):
        part = [lax.slice(a, start, stop, strides) for a in arrays]
        part_real = real[tuple(map(slice, start, stop, strides))]
        total = part if total is None else combine(total, part, total_real, part_real)
        total_real = part_real if total_real is None else total_real | part_real
    return total, total_real


def _offsets(shape, sizes, dilation) -> Iterator[tuple[list[int], list[int]]]:
    for offset in np.ndindex(*sizes):
        start = [o * d for o, d in zip(offset, dilation)]
        last = [(w - 1) * d for w, d in zip(sizes, dilation)]
        yield start, [n - (e - s) for n, e, s in zip(shape, last, start)]


def _doubled(arrays, real, combine, axis, size, stride, dilation):
    """Windows along one axis, put together from windows of 1, 2, 4, ... elements.

    Earlier elements stay on the left.
    """
    results = real.shape[axis] - (size - 1) * dilation
    total, total_real, done, length = None, None, 0, 1

    def part_of(start, count, by=1):
        bounds = {"start_index": start, "limit_index": start + count, "stride": by, "axis": axis}
        cut = tuple(
            slice(start, start + count, by) if i == axis else slice(None) for i in range(real.ndim)
        )
        return [lax.slice_in_dim(a, **bounds) for a in arrays], real[cut]

    while True:
        if size & length:
            part, part_real = part_of(done * dilation, results, stride)
            total = part if total is None else combine(total, part, total_real, part_real)
            total_real = part_real if total_real is None else total_real | part_real
            done += length
        if done == size:
            return total, total_real
        count = real.shape[axis] - length * dilation
        (left, left_real), (right, right_real) = (
            part_of(0, count),
            part_of(length * dilation, count),
        )
        arrays, real = combine(left, right, left_real, right_real), left_real | right_real
        length *= 2
