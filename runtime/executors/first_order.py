"""`jax.grad` of a function around a metagradient: the value's derivative is the gradient.

    d value  =  sum_i <gradient_i, d input_i>

A value that is a vector has a gradient for each entry, along the leading axis.

A program computes that gradient anyway, so nothing else is run. Of its other results (the gradient
itself, the final state, what is auxiliary) no derivative is known. Their tangents are stand-ins
that raise an error where they are used: when they are transposed, lowered or computed. In reverse
mode that is only where a cotangent comes back to them.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, mlir

from metagrad.runtime.executors.fused import PRIMITIVES, FusedProgram, Gradients


def _jvp(primals, tangents, *, program: FusedProgram):
    results = program.call(*primals)
    with_tangent = [i for i, tangent in enumerate(tangents) if type(tangent) is not ad.Zero]
    known = program.gradients
    for i in with_tangent:
        if i not in known.of_input:
            raise NotImplementedError(_unknown_input(known, i))
    value = results[0]
    total = sum(_product(results[known.of_input[i]], tangents[i], value) for i in with_tangent)
    others = [
        refused_p.bind(
            *(tangents[i] for i in with_tangent),
            shape=result.shape,
            dtype=result.dtype,
            name=name,
        )
        if jnp.issubdtype(result.dtype, jnp.floating)
        else ad.Zero(jax.typeof(result).to_tangent_aval())
        for name, result in zip(known.results[1:], results[1:], strict=True)
    ]
    return results, [total, *others]


def _product(gradient: jax.Array, tangent: jax.Array, value: jax.Array) -> jax.Array:
    """<gradient, tangent>, for each entry of the value.

    It is computed in f64 if one of them is f64, else in f32. So a cotangent of the value that the
    leaf's dtype does not hold (1e8 in f16) is an infinity only if its product with the gradient is.
    """
    is_double = jnp.float64 in (gradient.dtype, value.dtype)
    wide = jnp.float64 if is_double else jnp.float32
    axes = range(value.ndim, gradient.ndim)
    product = gradient.astype(wide) * tangent.astype(wide)
    return jnp.sum(product, axis=tuple(axes)).astype(value.dtype)


for _primitive in PRIMITIVES:
    ad.primitive_jvps[_primitive] = _jvp


CLOSED_OVER = "a value that is closed over"
"""What `Gradients.inputs` calls an array that is not an argument."""


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
        f"the derivative of a metagradient's {name} is asked for, and it has one of its `value` "
        "only, by jax.grad, jax.vjp and jax.linearize. A second derivative of a run (a product "
        "with its Hessian, say) is jax.jvp over jax.grad of the run written as a jax.lax.scan, or "
        "differences of two metagradients. jax.jvp asks for the derivatives of all results at "
        "once: use jax.linearize in its place."
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


mlir.register_lowering(refused_p, _lower)
ad.primitive_transposes[refused_p] = _transpose
ad.primitive_jvps[refused_p] = lambda primals, tangents, **named: _refuse(named["name"])
