"""Orderings: the indices are constants, the values are gathered."""

import numpy as np
from jax import lax
from jax.extend.core import primitives

from metagrad.frontend.dtypes import is_float
from metagrad.frontend.exact_lowerings.value_and_derivative import value


def sort(*operands, dimension, is_stable, num_keys):
    positions = lax.broadcasted_iota(np.int32, operands[0].shape, dimension)
    *ordered, places = value(
        primitives.sort_p,
        *operands,
        positions,
        dimension=dimension,
        is_stable=is_stable,
        num_keys=num_keys,
    )
    return [along(x, places, dimension) if is_float(x) else y for x, y in zip(operands, ordered)]


def top_k(x, *, k, axis, **how):
    # `is_stable`, from 0.12 on: which of equal entries is taken.
    _, places = value(primitives.top_k_p, x, k=k, axis=axis, **how)
    return along(x, places, axis), places


def approx_top_k(x, *, reduction_dimension, **how):
    axis = reduction_dimension % x.ndim
    _, places = value(primitives.approx_top_k_p, x, reduction_dimension=axis, **how)
    return along(x, places, axis), places


def along(x, places, axis):
    """x at `places` along one axis, all other axes in step."""
    others = tuple(i for i in range(x.ndim) if i != axis)
    numbers = lax.GatherDimensionNumbers(
        offset_dims=(),
        collapsed_slice_dims=(axis,),
        start_index_map=(axis,),
        operand_batching_dims=others,
        start_indices_batching_dims=others,
    )
    return lax.gather(
        x, lax.expand_dims(places, (x.ndim,)), numbers, (1,) * x.ndim, mode="promise_in_bounds"
    )
