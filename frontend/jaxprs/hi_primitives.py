"""JAX's "hi" primitives (from 0.12 on): one equation for a function with its own derivative rules.

    m e = call_hi_primitive[_prim=Frexp(...)] x

jnp.frexp, jnp.searchsorted, jnp.nonzero, lax.custom_root and others are such functions.

JAX differentiates such an equation by its rules. When it lowers a program, it puts what the
function computes in its place, and the rules are gone. So before Enzyme differentiates a function,
`low` puts a primitive of ours there. Its lowering carries the rule along
(capabilities/true_rules.py); it is a constant where no result is real.

A function that is only run needs none of this: JAX's own way of lowering it is the right one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
from jax.extend import core
from jax.extend.core import Primitive
from jax.interpreters import mlir

from metagrad.frontend.dtypes import is_float
from metagrad.frontend.exact_lowerings.value_and_derivative import stopped
from metagrad.frontend.jaxprs.calls import map_functions
from metagrad.frontend.jaxprs.interpret import bind, interpret
from metagrad.runtime.jax_internals import (
    call_hi_primitive_p,
    has_hi_primitive,
)

hi_call_p = Primitive("metagrad_hi_call")
hi_call_p.multiple_results = True


@hi_call_p.def_abstract_eval
def _shapes(*avals, **params):
    assert call_hi_primitive_p is not None, "of which this is a copy"
    return call_hi_primitive_p.abstract_eval(*avals, **params)[0]


def expand(*operands, **params) -> list:
    """What the function computes, without its rules."""
    assert call_hi_primitive_p is not None, "of which this is a copy"
    return list(call_hi_primitive_p.to_lojax(*operands, **params))


mlir.register_lowering(hi_call_p, mlir.lower_fun(expand))


def is_hi(eqn: core.JaxprEqn) -> bool:
    """Whether an equation is such a function, JAX's or ours in its place."""
    return eqn.primitive in (call_hi_primitive_p, hi_call_p)


def is_constant(eqn: core.JaxprEqn) -> bool:
    """Whether no result of an equation is real, so that no derivative goes through it."""
    return not any(is_float(var.aval) for var in eqn.outvars)


def low(closed: core.ClosedJaxpr) -> core.ClosedJaxpr:
    """The function with our primitive for each hi primitive, inside loops and branches too."""
    if not any(map(has_hi_primitive, closed.jaxpr.eqns)):
        return closed
    return jax.make_jaxpr(lambda *args: interpret(closed, args, _low_equation))(*closed.in_avals)


def _low_equation(eqn: core.JaxprEqn, operands: Sequence[Any]) -> list | None:
    if eqn.primitive is call_hi_primitive_p:
        return hi_call_p.bind(
            *(map(stopped, operands) if is_constant(eqn) else operands), **eqn.params
        )
    if not has_hi_primitive(eqn):
        return None
    return bind(eqn.replace(params=map_functions(eqn.params, low)), operands)
