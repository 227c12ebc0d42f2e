"""The primitive that stands for an inner gradient, and its rules for JAX's transformations.

They give mixed mode wherever the gradient stands.

    (value, aux, g) = grad_p(operands)      g: the derivative of sum(value) in the operands `wrt`

A gradient at the top level of the step is cut out by the compiler (split_step.py). One inside a
loop, a branch or a function that the user transforms is met by JAX's own transformations, and the
rules here keep the gradient whole there as well:

    jvp        (value, aux, g)' = product_p(operands, tangents), linear in the tangents
    transpose  of product_p: forward over reverse, which is MixFlow-MG's mixed mode
               (Kemaev et al. 2025, arXiv 2505.00793)
    vmap       grad_p of the batched loss

The residuals of `product_p` are the loss's operands. So the reverse mode over a `scan` in which
microbatches' gradients are accumulated keeps the parameters once and the data, and no activations:
its memory is that of one microbatch.

The transpose rests on the symmetry of the Hessian. A loss with a custom rule that is not known to
be a true derivative has no such symmetry; there the gradient is expanded as JAX does it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core
from jax.extend.core import Primitive, jaxpr_as_fun
from jax.interpreters import ad, batching, mlir

from metagrad.frontend import capabilities
from metagrad.frontend.dtypes import is_float
from metagrad.frontend.jaxprs.auto_axes import explicit_sharding
from metagrad.frontend.jaxprs.interpret import equations
from metagrad.runtime import jax_internals
from metagrad.runtime.moving_operands import filled, push

TRACING = jax.make_user_context(False)
"""Whether a decorated step is being traced.

Part of JAX's cache keys, so a jitted function inside the step is traced again for us.
"""


def floats(avals: Sequence) -> list[int]:
    return [i for i, aval in enumerate(avals) if is_float(aval)]


# --- What the primitive means ---------------------------------------------------------------------


def expanded(*operands, jaxpr: core.ClosedJaxpr, wrt: tuple[int, ...], label: str = "") -> list:
    """[value, *aux, *gradients], by JAX's reverse mode."""

    def loss(*differentiated):
        value, *aux = jaxpr_as_fun(jaxpr)(*filled(operands, wrt, differentiated))
        return value, aux

    if not wrt:
        value, aux = loss()
        return [value, *aux]
    value, pullback, aux = jax.vjp(loss, *(operands[i] for i in wrt), has_aux=True)
    return [value, *aux, *pullback(jnp.ones_like(value))]


def pull(
    jaxpr: core.ClosedJaxpr,
    operands: Sequence,
    cotangents: dict[int, jax.Array],
    active: Sequence[int],
) -> list:
    """Cotangents of the operands `active`, by JAX's reverse mode.

    Args:
      cotangents: by result index. A result that is not in it has no cotangent at all, which differs
        from zero: zero times an infinite derivative is NaN.
    """

    def moving(*values):
        results = jaxpr_as_fun(jaxpr)(*filled(operands, active, values))
        return [results[i] for i in cotangents]

    _, pullback = jax.vjp(moving, *(operands[i] for i in active))
    return list(pullback(list(cotangents.values())))


def product(
    jaxpr: core.ClosedJaxpr,
    wrt: Sequence[int],
    operands: Sequence,
    cotangents: dict[int, jax.Array],
    active: Sequence[int],
) -> list:
    """Cotangents of the operands `active`, by forward over reverse, from those of all results.

    The results are (value, aux, gradients). With the loss's pullback P(operands, seeds) the
    gradient is P at the seeds (1, 0, ...). Its Jacobian is symmetric, so the cotangents are the
    tangents of P when the operands `wrt` move by the cotangents of the gradients and the seeds by
    those of value and aux. The sweep is MixFlow-MG's.

    Args:
      cotangents: by result index, as for `pull`.
    """
    outputs = len(jaxpr.out_avals)
    moving = [j for j in range(len(wrt)) if outputs + j in cotangents]
    steered = [i for i in cotangents if i < outputs]
    # Inside of shard_map a type says along which axes the values of devices differ.
    zeros = {i: ad.instantiate_zeros(ad.Zero(jaxpr.out_avals[i])) for i in {0, *steered}}
    seeds = zeros | {0: jnp.ones_like(zeros[0])}

    def pullback(parameters, moved_seeds):
        moved = filled(operands, [wrt[j] for j in moving], parameters)
        return pull(jaxpr, moved, seeds | dict(zip(steered, moved_seeds)), active)

    primals = [operands[wrt[j]] for j in moving], [seeds[i] for i in steered]
    tangents = [cotangents[outputs + j] for j in moving], [cotangents[i] for i in steered]
    return jax.jvp(pullback, primals, tangents)[1]


def has_true_gradient(jaxpr: core.Jaxpr) -> bool:
    """Whether all custom rules inside are known to be the true derivatives of their functions."""
    return all(map(capabilities.has_true_derivative, equations(jaxpr)))


# --- The gradient ---------------------------------------------------------------------------------

grad_p = jax_internals.keep_when_lowered(Primitive("metagrad_grad"))
grad_p.multiple_results = True


@grad_p.def_impl
def _run(*operands, **params):
    return jax.jit(functools.partial(expanded, **params))(*operands)


@grad_p.def_abstract_eval
def _shapes(*avals, jaxpr, wrt, label):
    return [*jaxpr.out_avals, *(avals[i].update(weak_type=False) for i in wrt)]


def _batch(operands, dims, *, jaxpr, wrt, label):
    """Per-example gradients are one gradient of the batched loss.

    Each example has its own copy of the parameters.
    """
    size = next(operand.shape[dim] for operand, dim in zip(operands, dims) if dim is not None)
    operands, dims = list(operands), list(dims)
    divided = _mapped_axis_of_mesh(operands, dims)
    for i in wrt:
        operands[i] = batching.bdim_at_front(operands[i], dims[i], size, divided)
        dims[i] = 0
    axes = list(dims)
    batched = jax.make_jaxpr(jax.vmap(jaxpr_as_fun(jaxpr), in_axes=axes, axis_size=size))(*operands)
    results = grad_p.bind(*operands, jaxpr=batched, wrt=wrt, label=label)
    return results, [0] * len(results)


def _mapped_axis_of_mesh(operands: Sequence[Any], dims: Sequence[int | None]) -> Any:
    """The axes of a mesh over which the mapped axis is divided, where types say so; or None."""
    specs = (
        (explicit_sharding(jax.typeof(operand)), dim)
        for operand, dim in zip(operands, dims)
        if dim is not None
    )
    return next((sharding.spec[dim] for sharding, dim in specs if sharding is not None), None)


def _jvp(primals, tangents, **params):
    if not has_true_gradient(params["jaxpr"].jaxpr):
        return _moved(functools.partial(expanded, **params), primals, tangents)
    results = grad_p.bind(*primals, **params)
    moving = tuple(i for i, tangent in enumerate(tangents) if not isinstance(tangent, ad.Zero))
    moved = iter(
        product_p.bind(
            *primals,
            *(tangents[i] for i in moving),
            moving=moving,
            jaxpr=params["jaxpr"],
            wrt=params["wrt"],
        )
    )
    return results, [
        next(moved) if is_float(jax.typeof(r)) else ad.Zero(jax.typeof(r).to_tangent_aval())
        for r in results
    ]


def _moved(function, primals, tangents):
    """`jax.jvp` in the operands that move."""
    return push(
        function, primals, {i: t for i, t in enumerate(tangents) if not isinstance(t, ad.Zero)}
    )


batching.primitive_batchers[grad_p] = _batch
ad.primitive_jvps[grad_p] = _jvp
mlir.register_lowering(grad_p, mlir.lower_fun(expanded, multiple_results=True))


# --- Its derivative -------------------------------------------------------------------------------

product_p = jax_internals.keep_when_lowered(Primitive("metagrad_gradient_product"))
product_p.multiple_results = True


def _push(*operands, jaxpr, wrt, moving):
    """Tangents of the gradient's float results.

    The tangents of the operands `moving` follow the operands.
    """
    count = len(jaxpr.in_avals)

    def float_results(*primals):
        results = expanded(*primals, jaxpr=jaxpr, wrt=wrt)
        return [result for result in results if is_float(jax.typeof(result))]

    return push(float_results, operands[:count], dict(zip(moving, operands[count:])))[1]


def _transpose(cotangents, *operands, jaxpr, wrt, moving):
    count = len(jaxpr.in_avals)
    results = floats([*jaxpr.out_avals, *(jaxpr.in_avals[i] for i in wrt)])
    cotangent_of = {i: ct for i, ct in zip(results, cotangents) if not isinstance(ct, ad.Zero)}
    linear = [i for i, tangent in zip(moving, operands[count:]) if ad.is_undefined_primal(tangent)]
    if not cotangent_of or not linear:
        return [None] * len(operands)
    back = dict(zip(linear, product(jaxpr, wrt, operands[:count], cotangent_of, linear)))
    return [None] * count + [back.get(i) for i in moving]


@product_p.def_abstract_eval
def _product_shapes(*avals, jaxpr, wrt, moving):
    results = [*jaxpr.out_avals, *(jaxpr.in_avals[i] for i in wrt)]
    return [aval.update(weak_type=False) for aval in results if is_float(aval)]


def _product_jvp(primals, tangents, **params):
    return _moved(functools.partial(_push, **params), primals, tangents)


def _product_batch(operands, dims, **params):
    axes = list(dims)
    results = jax.vmap(functools.partial(_push, **params), in_axes=axes)(*operands)
    return results, [0] * len(results)


@product_p.def_impl
def _run_product(*operands, **params):
    return jax.jit(functools.partial(_push, **params))(*operands)


ad.primitive_jvps[product_p] = _product_jvp
ad.primitive_transposes[product_p] = _transpose
batching.primitive_batchers[product_p] = _product_batch
mlir.register_lowering(product_p, mlir.lower_fun(_push, multiple_results=True))

EXPANSIONS: dict[Primitive, Callable[..., Sequence]] = {grad_p: expanded, product_p: _push}
"""What the two primitives compute, by JAX's own modes."""
