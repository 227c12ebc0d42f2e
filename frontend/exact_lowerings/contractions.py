"""Contractions of operands of different types, as in models that compute in bfloat16 and accumulate in float32.

Enzyme wants operands and result of one type: they are converted first. The products are the same numbers, for a product of two bfloat16 numbers fits
a float32; where JAX's rule contracts a float32 cotangent with a bfloat16 operand it means the same conversion.
"""

from jax import lax
from jax.extend.core import primitives
import jax.numpy as jnp

from .values import plain


def types(params, avals) -> set:
    """The float types that meet in a contraction."""
    return {jnp.dtype(a.dtype) for a in avals} | {jnp.dtype(params["preferred_element_type"] or avals[0].dtype)}


def dot_general(x, y, **params):
    found = types(params, (x, y))
    if len(found) == 1:
        return plain(primitives.dot_general_p, x, y, **params)
    result = jnp.dtype(params["preferred_element_type"] or jnp.promote_types(x.dtype, y.dtype))
    widest = jnp.result_type(*found)
    out = plain(
        primitives.dot_general_p, *(lax.convert_element_type(a, widest) for a in (x, y)), **params | {"preferred_element_type": widest})
    return lax.convert_element_type(out, result)
