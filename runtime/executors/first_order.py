"""`jax.grad` of a function around a metagradient: the value's derivative is the gradient.

    d value  =  sum_i <gradient_i, d input_i>

A value that is a vector has a gradient for each entry, along the leading axis.

A program computes that gradient anyway, so nothing else is run. The tangents of its other results
(the gradient itself, the final state, what is auxiliary) are those of second_order.py, which are
computed where they are used. A program from a file has only its value's: there the others are
stand-ins that raise an error where they are used, when they are transposed, lowered or computed.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from metagrad.runtime.executors.fused import PRIMITIVES, FusedProgram, Gradients
from metagrad.runtime.executors.second_order import tangents_of_results


def _jvp(primals, tangents, *, program: FusedProgram):
    results = program.call(*primals)
    known = program.gradients
    moving = {i: tangent for i, tangent in enumerate(tangents) if type(tangent) is not ad.Zero}
    unknown = [i for i in moving if i not in known.of_input]
    for i in unknown:
        if program.derivations is None or known.inputs[i] == CLOSED_OVER:
            raise NotImplementedError(_unknown_input(known, i))
    # They are computed only where they are used; reverse mode uses those of the value alone.
    every = _all_tangents(program, primals, moving, unknown)
    if not unknown:
        every[: len(known.values)] = _tangents_of_values(known, results, moving)
    return results, [
        ad.Zero(jax.typeof(result).to_tangent_aval()) if tangent is None else tangent
        for result, tangent in zip(results, every, strict=True)
    ]


def _all_tangents(
    program: FusedProgram, primals: Sequence[Any], moving: dict[int, Any], unknown: list[int]
) -> list:
    """The tangents of all results, or stand-ins; None for a result that is not floating point."""
    known = program.gradients
    if program.derivations is not None:
        refusals = [
            _unknown_input(known, unknown[0]) if unknown else _goes_forward(name)
            for name in known.results
        ]
        return tangents_of_results(program, primals, moving, refusals)
    return [
        refused_p.bind(*moving.values(), shape=result.shape, dtype=result.dtype, name=name)
        if jnp.issubdtype(result.dtype, jnp.floating)
        else None
        for name, result in zip(known.results, program.outputs, strict=True)
    ]


def _tangents_of_values(
    known: Gradients, results: Sequence[jax.Array], moving: dict[int, Any]
) -> list[jax.Array]:
    """The tangents of the value; of several runs, that of their sum and those of each."""
    value = results[0]
    axes = known.axis_of_runs
    products = [
        _product(results[known.of_input[i]], t, value, None if axes is None else axes[i])
        for i, t in moving.items()
    ]
    total = functools.reduce(operator.add, products)
    return [total] if axes is None else [jnp.sum(total, 0), total]


def _product(
    gradient: jax.Array, tangent: jax.Array, value: jax.Array, axis: int | None = None
) -> jax.Array:
    """<gradient, tangent>, for each entry of the value.

    It is computed in f64 if one of them is f64, else in f32. So a cotangent of the value that the
    leaf's dtype does not hold (1e8 in f16) is an infinity only if its product with the gradient is.

    Args:
      axis: of the runs in the tangent, which becomes the first axis of the result.
    """
    is_double = jnp.float64 in (gradient.dtype, value.dtype)
    wide = jnp.float64 if is_double else jnp.float32
    product = gradient.astype(wide) * jnp.asarray(tangent, wide)
    kept = list(range(value.ndim))
    if axis is not None:
        product, kept = jnp.moveaxis(product, value.ndim + axis, 0), [*kept, value.ndim]
    others = tuple(i for i in range(product.ndim) if i not in kept)
    return jnp.sum(product, axis=others).astype(value.dtype)


for _primitive in PRIMITIVES:
    ad.primitive_jvps[_primitive] = _jvp


CLOSED_OVER = "a value that is closed over"
"""What `Gradients.inputs` calls an array that is not an argument."""


def _goes_forward(name: str) -> str:
    return (
        f"the derivative of a metagradient's {name} is asked for by reverse mode (jax.grad, "
        "jax.vjp, jax.jacrev), which has one of its `value` only. A second derivative of a run "
        "goes forward: a product with the Hessian is jax.jvp(lambda z: mg(state0, z, "
        "batches).grad, (z,), (v,)), and the whole of a small one jax.jacfwd of that function "
        "(docs/second_derivatives.md)."
    )


def _unknown_input(known: Gradients, i: int) -> str:
    named = ", ".join(known.inputs[j] for j in known.of_input) or "nothing"
    if known.inputs[i] == CLOSED_OVER:
        return (
            "the derivative of a metagradient's value in a value that step, loss or outer function "
            f"close over is asked for, and the program has it in {named} only. Pass that value in "
            "meta, the state or the batches, and name it in `wrt`."
        )
    return (
        f"the derivative of a metagradient's value in {known.inputs[i]} is asked for, and the "
        f"program has it in {named} only. Name what is to be differentiated in `wrt`; what the "
        "outer function takes beside the state has no derivative here (jax.lax.stop_gradient of it "
        "says so)."
    )


# --- Tangents that nothing may use ----------------------------------------------------------------

refused_p = Primitive("metagrad_refused_tangent")


def _refuse(name: str):
    raise NotImplementedError(
        f"the derivative of a loaded metagradient's {name} is asked for, and a file has one of its "
        "`value` only, by jax.grad, jax.vjp and jax.linearize. jax.jvp asks for the derivatives of "
        "all results at once: use jax.linearize in its place. A product with the Hessian of a run "
        "is jax.jvp of a metagradient that is not loaded."
    )


@refused_p.def_abstract_eval
def _shape(*avals, shape, dtype, name):
    return jax.core.ShapedArray(shape, dtype)


@refused_p.def_impl
def _compute(*tangents, shape, dtype, name):
    _refuse(name)


def _lower(ctx, *tangents, shape, dtype, name):
    _refuse(name)


def _transpose(cotangent, *tangents, shape, dtype, name):
    _refuse(name)


def _batch(tangents, axes, *, shape, dtype, name):
    _refuse(name)


mlir.register_lowering(refused_p, _lower)
batching.primitive_batchers[refused_p] = _batch
ad.primitive_transposes[refused_p] = _transpose
ad.primitive_jvps[refused_p] = lambda primals, tangents, **named: _refuse(named["name"])
