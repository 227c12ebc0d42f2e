"""Gather and scatter: indices out of bounds."""

import math

import numpy as np
from jax import lax
from jax.extend.core import primitives

from metagrad.frontend.exact_lowerings.value_and_derivative import attach, plain, value


def gather(x, indices, *, dimension_numbers, slice_sizes, mode, **parameters):
    """With mode "clip" an op clips the indices.

    Without it, Enzyme's scatter would drop the cotangents of indices out of bounds.
    """
    if mode == lax.GatherScatterMode.CLIP:
        bounds = index_bounds(
            x,
            [slice_sizes[d] for d in dimension_numbers.start_index_map],
            dimension_numbers.start_index_map,
            indices,
        )
        indices = lax.clamp(indices.dtype.type(0), indices, bounds)
        mode = lax.GatherScatterMode.PROMISE_IN_BOUNDS
    return plain(
        primitives.gather_p,
        x,
        indices,
        dimension_numbers=dimension_numbers,
        slice_sizes=slice_sizes,
        mode=mode,
        **parameters,
    )


def scatter(primitive):
    """With mode "fill" an update out of bounds is dropped, and so is its cotangent.

    Enzyme's gather alone would clip the index.
    """

    def scattered(x, indices, updates, *, dimension_numbers, mode, **parameters):
        if mode == lax.GatherScatterMode.FILL_OR_DROP:
            window = iter(dimension_numbers.update_window_dims)
            single = {
                *dimension_numbers.inserted_window_dims,
                *dimension_numbers.operand_batching_dims,
            }
            sizes = [1 if d in single else updates.shape[next(window)] for d in range(x.ndim)]
            axes = dimension_numbers.scatter_dims_to_operand_dims
            bounds = index_bounds(x, [sizes[d] for d in axes], axes, indices)
            inside = lax.reduce_and((indices >= 0) & (indices <= bounds), [indices.ndim - 1])
            rows = [d for d in range(updates.ndim) if d not in dimension_numbers.update_window_dims]
            inside = lax.broadcast_in_dim(inside, updates.shape, rows)
            updates = lax.select(inside, updates, lax.full_like(updates, 0))
        return plain(
            primitive,
            x,
            indices,
            updates,
            dimension_numbers=dimension_numbers,
            mode=mode,
            **parameters,
        )

    return scattered


def scatter_sub(
    x, indices, updates, *, dimension_numbers, update_jaxpr, update_consts, **parameters
):
    return lax.scatter_add(x, indices, -updates, dimension_numbers, **parameters)


def scatter_mul(
    x, indices, updates, *, dimension_numbers, update_jaxpr, update_consts, **parameters
):
    """x times a factor, which is the update where no two updates meet.

    Only there JAX has a derivative in the updates.
    """
    options = dict(dimension_numbers=dimension_numbers, **parameters)
    scatter_options = dict(options, update_jaxpr=update_jaxpr, update_consts=update_consts)
    factor = attach(
        value(primitives.scatter_mul_p, lax.full_like(x, 1), indices, updates, **scatter_options),
        lax.scatter_add(lax.full_like(x, 0), indices, updates, **options),
    )
    return attach(
        value(primitives.scatter_mul_p, x, indices, updates, **scatter_options), x * factor
    )


def without_promises(params):
    """Scatter's parameters, promising nothing of the indices.

    In the rules of `scatter_min` and `scatter_max` some scatters pass the promises on and some do
    not. Enzyme's forward mode fails where the two meet ("Reduction-region must take 2 parameters,
    but takes 4").
    """
    return params | {"indices_are_sorted": False, "unique_indices": False}


def targets_may_repeat(params, avals):
    """Whether two updates may have one target.

    One of them wins, and JAX's rule finds out which; Enzyme gives the cotangent to all.
    """
    return math.prod(avals[1].shape[:-1]) != 1 and not params["unique_indices"]


def index_bounds(x, sizes, axes, indices):
    """The largest index along each indexed axis at which a window of these sizes fits.

    It has the shape of `indices`.
    """
    largest = np.array([x.shape[d] - n for d, n in zip(axes, sizes)])
    largest = np.minimum(largest, np.iinfo(indices.dtype).max).astype(indices.dtype)
    return lax.broadcast_in_dim(largest, indices.shape, (indices.ndim - 1,))
