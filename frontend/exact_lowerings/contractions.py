"""Contractions of operands of different types.

Models that compute in bfloat16 and accumulate in float32 have them.

Enzyme wants operands and result of one type, so they are converted first. The products are the same
numbers, since a product of two bfloat16 numbers fits a float32. Where JAX's rule contracts a
float32 cotangent with a bfloat16 operand it means the same conversion.

The conversions are marked: the program that runs has the product as it was written
(compiler/passes/for_enzyme/narrow_products.py).
"""

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive, primitives
from jax.interpreters import mlir
from jaxlib.mlir import ir
from jaxlib.mlir.dialects import stablehlo as hlo

from metagrad.compiler.dialect import metagrad
from metagrad.frontend.dtypes import promoted
from metagrad.frontend.exact_lowerings.value_and_derivative import plain

widen_p = Primitive("metagrad_widen")


@widen_p.def_abstract_eval
def _widened(x, *, dtype):
    return jax.core.ShapedArray(x.shape, dtype)


def _lower_widen(ctx, x, *, dtype):
    (ty,) = mlir.aval_to_ir_types(ctx.module_context, ctx.avals_out[0])
    op = hlo.ConvertOp(ty, x)
    op.attributes[metagrad.WIDENED] = ir.UnitAttr.get()
    return op.results


mlir.register_lowering(widen_p, _lower_widen)


def widen(x, dtype):
    """x in a type that holds its numbers exactly."""
    return x if x.dtype == dtype else widen_p.bind(x, dtype=dtype)


def dtypes_of(params, avals) -> set:
    """The float types that meet in a contraction."""
    return {jnp.dtype(a.dtype) for a in avals} | {
        jnp.dtype(params["preferred_element_type"] or avals[0].dtype)
    }


def of_one_type(primitive):
    """The contraction in the widest of the types that meet; the result has JAX's type."""

    def contraction(x, y, **params):
        dtypes = dtypes_of(params, (x, y))
        if len(dtypes) == 1:
            return plain(primitive, x, y, **params)
        result = jnp.dtype(params["preferred_element_type"] or promoted(x.dtype, y.dtype))
        widest = promoted(*dtypes)
        wide = (widen(a, widest) for a in (x, y))
        return lax.convert_element_type(
            plain(primitive, *wide, **params | {"preferred_element_type": widest}), result
        )

    return contraction


dot_general = of_one_type(primitives.dot_general_p)
_conv = of_one_type(primitives.conv_general_dilated_p)


def conv(x, kernel, **params):
    """Without results there is no derivative; Enzyme would have it in windows of no elements."""
    operands = (jax.typeof(x), jax.typeof(kernel))
    result, _ = primitives.conv_general_dilated_p.abstract_eval(*operands, **params)
    if not (x.size and kernel.size and result.size):
        return lax.full(result.shape, 0, result.dtype)
    return _conv(x, kernel, **params)
