"""Lowerings of JAX primitives that Enzyme differentiates as JAX does, where JAX's own lowering would not be.

Enzyme sees StableHLO, and at some places its derivative of an op is another one than JAX's: at ties of `max` it picks a
side where JAX halves, at `sqrt(0)` it has 0 where JAX has infinity, `sigmoid(-100)` is lowered by JAX to `1 / (1 + exp(100))`
and has a NaN for a derivative, `sort` has none. Each function here computes the same value from ops whose derivatives compose
to JAX's rule, at first and second order. `capabilities.py` says which primitive uses which; tests/capabilities/ holds the evidence.

Two devices do most of the work.

*A value with the derivative of something else.* With `held(x) = stop_gradient(x)`, what `attach(v, d)` builds,

    v - (held(d) - d)

has the value of v, and to the derivative of v adds that of d. Where d is not finite this holds only because the compiler erases the
difference from the finished program (`a - (held(d) - d)` becomes `a`); with it goes all of d that the derivative does not need.

*A branch chosen by `select`.* The derivative follows the branch that is taken. What the other branch computes must stay finite,
or 0 * inf makes it NaN: its operand is replaced by a harmless number first. The condition is held too, or a simplifier that knows
only values would make `max(x, 0)` of `where(x > 0, x, 0)`, with another derivative at 0.
"""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax._src.interpreters import mlir
from jax.extend import core
from jax.extend.core import primitives
from jaxlib.mlir.dialects import stablehlo


# --- A primitive as JAX lowers it, and its value without a derivative --------------------------------------------

plain_p = core.Primitive("as_jax_lowers_it")
plain_p.multiple_results = True


@plain_p.def_abstract_eval
def _plain_shapes(*operands, of, parameters):
    out = of.abstract_eval(*operands, **dict(parameters))[0]
    return out if of.multiple_results else [out]


def jax_lowering(of, ctx, *operands, **parameters):
    """Lowers the primitive `of` by JAX's own rule, whatever overrides are in force."""

    def apply(*xs):
        out = of.bind(*xs, **parameters)
        return out if of.multiple_results else [out]

    return mlir.lower_fun(apply)(ctx.replace(module_context=without_overrides(ctx.module_context)), *operands)


def without_overrides(context):
    """The module's context with JAX's own rules, and with caches of its own.

    JAX caches the lowering of an equation by its primitive, parameters and types, not by the rule: what was lowered without a derivative must not be
    found where one is wanted, nor the other way round.
    """
    if context.lowering_parameters.override_lowering_rules is None:
        return context
    own = dataclasses.replace(context.lowering_parameters, override_lowering_rules=None)
    caches = context.cached_primitive_lowerings.setdefault("metagrad without overrides", ({}, {}))
    return context.replace(lowering_parameters=own, lowering_cache=caches[0], cached_primitive_lowerings=caches[1])


mlir.register_lowering(
    plain_p, lambda ctx, *xs, of, parameters: jax_lowering(of, ctx, *xs, **dict(parameters)))


def plain(of, *operands, **parameters):
    """The primitive `of` with JAX's lowering and Enzyme's derivative: what an override builds on."""
    out = plain_p.bind(*operands, of=of, parameters=tuple(parameters.items()))
    return out if of.multiple_results else out[0]


def value(of, *operands, **parameters):
    """What the primitive `of` computes, as a constant of differentiation; its op never meets an active operand."""
    return plain(of, *map(held, operands), **parameters)


def held(x):
    """x as a constant of differentiation. `lax.stop_gradient` leaves integers and booleans alone; this does not."""
    return primitives.stop_gradient_p.bind(x)


def attach(v, d):
    """v, with the derivative of d added to its own."""
    return v - (held(d) - d)


def same_shape(*xs):
    """JAX's elementwise primitives take scalars and axes of size 1 beside arrays; `select` does not."""
    shape = np.broadcast_shapes(*(x.shape for x in xs))
    return [x if x.shape == shape else lax.broadcast_in_dim(x, shape, range(len(shape) - x.ndim, len(shape))) for x in xs]


# --- Choices: select, max, min, clamp, reductions ------------------------------------------------------------------------


def select_n(which, *cases):
    return plain(primitives.select_n_p, held(which), *cases)


def larger_or_smaller(primitive):
    """`max` and `min`: at a tie each operand gets half."""

    def chooser(x, y):
        x, y = same_shape(x, y)
        chosen = value(primitive, x, y)
        from_x, from_y = held(x) == chosen, held(y) == chosen
        none, one, two = (lax.full_like(x, n) for n in (0, 1, 2))
        share_x = lax.select(from_x, one, none) / lax.select(from_y, two, one)
        share_y = lax.select(from_y, one, none) / lax.select(from_x, two, one)
        return attach(attach(chosen, share_x * x), share_y * y)

    return chooser


def clamp(low, x, high):
    low, x, high = same_shape(low, x, high)
    limited = value(primitives.clamp_p, low, x, high)
    inside = (low < x) & (x < high)
    below = (x < low) & (low < high)
    above = (high < x) & (limited == high)
    return lax.select(inside, x, lax.select(below, low, lax.select(above, high, limited)))


def extreme(primitive):
    """`reduce_max` and `reduce_min`: those who tie share the derivative equally."""

    def reduction(x, *, axes, **parameters):
        extremum = value(primitive, x, axes=axes, **parameters)
        if not x.size:
            return extremum
        kept = [i for i in range(x.ndim) if i not in axes]
        tied = lax.eq(held(x), lax.broadcast_in_dim(extremum, x.shape, kept))
        shares = lax.convert_element_type(tied, x.dtype)
        return attach(extremum, total(x * shares, axes) / total(shares, axes))

    return reduction


def total(x, axes):
    return lax.reduce_sum(x, tuple(axes))


# --- Functions with a singular point -----------------------------------------------------------------------------


def sqrt(x, **parameters):
    """Enzyme's rule has the derivative 0 at 0 where JAX's has infinity, as has the logarithm."""
    zero = x == 0
    one = lax.full_like(x, 1)
    at_zero = lax.log(lax.select(zero, x, one))
    return attach(plain(primitives.sqrt_p, x, **parameters), at_zero)


def power(x, y):
    """JAX's derivative in y is `log(x) x^y`, with 0 for the logarithm where x is 0; Enzyme has 0 * log(0) there."""
    x, y = same_shape(x, y)
    one = lax.full_like(x, 1)
    if jnp.issubdtype(y.dtype, jnp.integer):
        # Nothing flows through x^0, also not where x is 0.
        none = y == 0
        return lax.select(none, one, power(lax.select(none, one, x), y.astype(x.dtype)))
    zero = x == 0
    at_zero = plain(primitives.pow_p, lax.select(zero, x, one), held(y)) * attach(one, held(one - one) * y)
    return lax.select(zero, at_zero, plain(primitives.pow_p, lax.select(zero, one, x), y))


def integer_pow(x, *, y):
    """x^-n is lowered as 1 / x^n, whose derivative squares x^n: it overflows where JAX's n x^(-n - 1) does not."""
    if y >= -1:
        return plain(primitives.integer_pow_p, x, y=y)
    return attach(value(primitives.integer_pow_p, x, y=y), plain(primitives.integer_pow_p, lax.full_like(x, 1) / x, y=-y))


def logistic(ctx, x, **_):
    """One op, whose rule is y (1 - y); JAX writes it out, and the derivative of 1 / (1 + exp(-x)) overflows for x < -88."""
    return [stablehlo.logistic(x)]


# --- Orderings: the indices are constants, the values are gathered -----------------------------------------------


def sort(*operands, dimension, is_stable, num_keys):
    positions = lax.broadcasted_iota(np.int32, operands[0].shape, dimension)
    *ordered, places = value(
        primitives.sort_p, *operands, positions, dimension=dimension, is_stable=is_stable, num_keys=num_keys)
    return [along(x, places, dimension) if jnp.issubdtype(x.dtype, jnp.floating) else y for x, y in zip(operands, ordered)]


def top_k(x, *, k, axis):
    _, places = value(primitives.top_k_p, x, k=k, axis=axis)
    return along(x, places, axis), places


def along(x, places, axis):
    """x at `places` along one axis, all other axes in step."""
    others = tuple(i for i in range(x.ndim) if i != axis)
    numbers = lax.GatherDimensionNumbers(
        offset_dims=(), collapsed_slice_dims=(axis,), start_index_map=(axis,),
        operand_batching_dims=others, start_indices_batching_dims=others)
    return lax.gather(x, lax.expand_dims(places, (x.ndim,)), numbers, (1,) * x.ndim, mode="promise_in_bounds")


def chosen_index(primitive):
    """`argmax` and `argmin`: Enzyme would look for the derivative of the comparison inside."""
    return lambda x, **parameters: value(primitive, x, **parameters)


# --- Gather and scatter: indices out of bounds -------------------------------------------------------------------


def gather(x, indices, *, dimension_numbers, slice_sizes, mode, **parameters):
    """With mode "clip" the indices are clipped by an op: Enzyme's scatter of the cotangents would drop those outside."""
    if mode == lax.GatherScatterMode.CLIP:
        bounds = index_bounds(x, [slice_sizes[d] for d in dimension_numbers.start_index_map], dimension_numbers.start_index_map, indices)
        indices = lax.clamp(indices.dtype.type(0), indices, bounds)
        mode = lax.GatherScatterMode.PROMISE_IN_BOUNDS
    return plain(primitives.gather_p, x, indices, dimension_numbers=dimension_numbers, slice_sizes=slice_sizes, mode=mode, **parameters)


def scatter(primitive):
    """With mode "fill" an update outside the bounds is dropped, and so is its cotangent: Enzyme's gather would clip the index."""

    def scattered(x, indices, updates, *, dimension_numbers, mode, **parameters):
        if mode == lax.GatherScatterMode.FILL_OR_DROP:
            window = iter(dimension_numbers.update_window_dims)
            single = {*dimension_numbers.inserted_window_dims, *dimension_numbers.operand_batching_dims}
            sizes = [1 if d in single else updates.shape[next(window)] for d in range(x.ndim)]
            axes = dimension_numbers.scatter_dims_to_operand_dims
            bounds = index_bounds(x, [sizes[d] for d in axes], axes, indices)
            inside = lax.reduce_and((0 <= indices) & (indices <= bounds), [indices.ndim - 1])
            rows = [d for d in range(updates.ndim) if d not in dimension_numbers.update_window_dims]
            inside = lax.broadcast_in_dim(inside, updates.shape, rows)
            updates = lax.select(inside, updates, lax.full_like(updates, 0))
        return plain(primitive, x, indices, updates, dimension_numbers=dimension_numbers, mode=mode, **parameters)

    return scattered


def index_bounds(x, sizes, axes, indices):
    """The largest index along each of the indexed axes at which a window of the given sizes fits, in the shape of `indices`."""
    largest = np.array([x.shape[d] - n for d, n in zip(axes, sizes)])
    largest = np.minimum(largest, np.iinfo(indices.dtype).max).astype(indices.dtype)
    return lax.broadcast_in_dim(largest, indices.shape, (indices.ndim - 1,))


# --- Prefixes and windows ----------------------------------------------------------------------------------------


def prefix(combine):
    """`cumsum` and its kin, by the parallel prefix that JAX itself uses to differentiate them; equal up to rounding."""

    def scan(x, *, axis, reverse):
        return lax.associative_scan(combine, x, axis=axis, reverse=reverse)

    return scan


def product(x, *, axes, **_):
    """A tree of multiplications, as in JAX's derivative: right also where factors are 0. Equal up to rounding."""
    x = jnp.moveaxis(x, tuple(axes), tuple(range(len(axes))))
    x = x.reshape(math.prod(x.shape[: len(axes)]), *x.shape[len(axes) :])
    if not x.shape[0]:
        return lax.full(x.shape[1:], 1, x.dtype)
    while x.shape[0] > 1:
        half = x.shape[0] // 2
        x = lax.concatenate([x[:half] * x[half : 2 * half], x[2 * half :]], 0)
    return x[0]


LARGEST_WINDOW = 64  # a window becomes one strided slice for each of its elements


def window_volume(parameters):
    return math.prod(parameters["window_dimensions"])


def window_elements(x, empty, *, window_dimensions, window_strides, padding, base_dilation, window_dilation):
    """One strided slice of the padded operand for each element of the window, in row-major order."""
    padded = lax.pad(x, lax.full((), empty, x.dtype), [(lo, hi, d - 1) for (lo, hi), d in zip(padding, base_dilation)])
    for offset in np.ndindex(*window_dimensions):
        start = [o * d for o, d in zip(offset, window_dilation)]
        last = [(w - 1) * d for w, d in zip(window_dimensions, window_dilation)]
        stop = [n - (e - s) for n, e, s in zip(padded.shape, last, start)]
        yield lax.slice(padded, start, stop, window_strides)


def window_sum(x, **parameters):
    total = None
    for element in window_elements(x, 0, **parameters):
        total = element if total is None else total + element
    return total


def window_extreme(comes_first, empty):
    """Max and min pooling: the first of equal elements gets the derivative, as in JAX's select-and-scatter."""

    def pooling(x, **parameters):
        best = None
        for element in window_elements(x, empty, **parameters):
            stays = None if best is None else comes_first(best, element) | (best != best)
            best = element if best is None else lax.select(stays, best, element)
        return best

    return pooling


# --- Custom rules of JAX's own library, which are the true derivative --------------------------------------------


def relu(x):
    return lax.select(x > 0, x, value(primitives.max_p, x, lax.full_like(x, 0)))


def relu6(x):
    zero, six = lax.full_like(x, 0), lax.full_like(x, 6)
    limited = value(primitives.min_p, value(primitives.max_p, x, zero), six)
    return lax.select((0 < x) & (x < 6), x, limited)


def logaddexp(x, y):
    """The larger plus log1p(exp(smaller - larger)): smooth also where x = y, unlike max and abs.

    At infinite operands the derivatives are those of JAX's rule: exp(x) where the sum is infinite, NaN where both are -inf.
    """
    x, y = same_shape(x, y)
    zero = lax.full_like(x, 0)
    known = (x == x) & (y == y)
    infinite = known & ((x == np.inf) | (y == np.inf))
    undefined = ~known | ((x == -np.inf) & (y == -np.inf))
    usual = ~(infinite | undefined)

    def only(branch, z):
        return lax.select(branch, z, zero)

    first = x >= y
    larger, smaller = only(usual, lax.select(first, x, y)), only(usual, lax.select(first, y, x))
    summed = larger + lax.log1p(lax.exp(smaller - larger))
    grown = lax.exp(only(infinite & (x < np.inf), x)) + lax.exp(only(infinite & (y < np.inf), y))
    at_infinity = attach(only(x == np.inf, x) + only(y == np.inf, y), grown)
    indefinite = lax.log(lax.exp(only(undefined, x)) + lax.exp(only(undefined, y)))
    return lax.select(usual, summed, lax.select(infinite, at_infinity, indefinite))
