"""JAX's own rule of a primitive or of a custom function, lowered beside its value.

    f(x)  ->  attach(value(f)(x), J(stopped_once(x)) moving(x))    J(x) t: the tangent by JAX's rule

At first order x is a constant inside J, and `moving(x)` carries the derivative: Enzyme transposes
the linear map J(x), as JAX does. The result, J(x)^T c, depends on x, and the second order
differentiates it. So the derivative is JAX's at both orders, whatever f is, as long as Enzyme is
exact for what J is made of. The derivatives of a function (digamma, say) may be known to JAX and
not to the table; they are lowered in the same way inside J, until no order is left.

Cost: JAX's rule in place of Enzyme's; the value is computed once more where the rule computes it.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
from jax.extend import core
from jax.extend.core import Primitive
from jax.interpreters import mlir

from metagrad.frontend.dtypes import is_float
from metagrad.frontend.exact_lowerings.value_and_derivative import (
    attach,
    jax_lowering,
    lower_jaxpr,
    moving,
    stopped,
    stopped_once,
    value,
    with_rules,
    without_overrides,
)
from metagrad.frontend.jaxprs import hi_primitives
from metagrad.runtime import jax_internals

ORDERS = 2


@dataclasses.dataclass(frozen=True)
class ByRule:
    """The lowering of a primitive that carries JAX's rule along.

    Attributes:
        primitive: whose lowering it is.
        order: how often the result may be differentiated.
        constant: operands in which JAX has no derivative.
        when: whether an equation with these parameters and operands is lowered so; all are without
            it.
        otherwise: the lowering of the others.
        in_rule: from an equation's parameters to those that value and rule are lowered with.
    """

    primitive: Primitive
    order: int = ORDERS
    constant: Sequence[int] = ()
    when: Callable | None = None
    otherwise: Callable | None = None
    in_rule: Callable | None = None

    def __call__(self, ctx, *operands, **params):
        if self.when and not self.when(params, ctx.avals_in):
            # There is one wherever there is a `when`.
            return self.otherwise(ctx, *operands, **params)  # type: ignore[misc]
        moves = movable(ctx.avals_in, self.constant)
        if not any(moves):
            return jax_lowering(self.primitive, ctx, *operands, **params)
        if self.in_rule:
            params = self.in_rule(params)
        jaxpr = tangent(self.primitive, params, ctx.avals_in, moves) if self.order else None

        def carrying(*xs):
            values = self.value(*xs, **params)
            if jaxpr is None:
                return values
            movement = [moving(x) for x, moves_too in zip(xs, moves) if moves_too]
            derivatives = iter(
                function_p.bind(
                    *(stopped_once(x) if is_float(x) else x for x in xs),
                    *movement,
                    jaxpr=jaxpr,
                    constant=False,
                )
            )
            return [attach(v, next(derivatives)) if is_float(v) else v for v in values]

        return mlir.lower_fun(carrying)(ctx, *operands)

    def value(self, *xs, **params) -> list:
        values = value(self.primitive, *xs, **params)
        return values if self.primitive.multiple_results else [values]


def movable(avals, constant: Sequence[int] = ()) -> list[bool]:
    """The operands in which a primitive is differentiated."""
    return [is_float(a) and i not in constant for i, a in enumerate(avals)]


def tangent(
    primitive: Primitive, params: dict, avals, moves: Sequence[bool]
) -> core.ClosedJaxpr | None:
    """(operands, tangents of those that move) -> tangents of the float results, by JAX's rule.

    None where JAX has no rule.
    """
    if primitive is hi_primitives.hi_call_p:  # the rule is that of what it stands for
        primitive = jax_internals.call_hi_primitive_p  # type: ignore[assignment]
    parameters, weak = tuple(sorted(params.items())), tuple(a.weak_type for a in avals)
    try:
        return _traced_once(primitive, parameters, tuple(avals), weak, tuple(moves))
    except TypeError:
        # A parameter that cannot be a key.
        return _traced(primitive, parameters, avals, weak, moves)


def _traced(primitive, parameters, avals, weak, moves):
    params = dict(parameters)

    def run(*args):
        xs, tangents = args[: len(avals)], args[len(avals) :]

        def of_moving(*moving):
            moving_values = iter(moving)
            filled = [next(moving_values) if moves_too else x for x, moves_too in zip(xs, moves)]
            out = primitive.bind(*filled, **primitive.get_bind_params(params))
            return [y for y in (out if primitive.multiple_results else [out]) if is_float(y)]

        return jax.jvp(
            of_moving, [x for x, moves_too in zip(xs, moves) if moves_too], list(tangents)
        )[1]

    try:
        rule = jax.make_jaxpr(run)(*avals, *(a for a, moves_too in zip(avals, moves) if moves_too))
    except NotImplementedError:
        return None
    return hi_primitives.low(rule)


_traced_once = functools.lru_cache(maxsize=4096)(_traced)


function_p = jax_internals.keep_when_lowered(Primitive("function_by_order"))
function_p.multiple_results = True


@function_p.def_abstract_eval
def _shapes(*avals, jaxpr, constant):
    return jaxpr.out_avals


def constant(jaxpr, *operands) -> list:
    """The function as JAX lowers it, and as a constant of differentiation."""
    return function_p.bind(*map(stopped, operands), jaxpr=jaxpr, constant=True)


def _lower(ctx, *operands, jaxpr, constant):
    context = ctx.module_context
    rules = context.lowering_parameters.override_lowering_rules
    if constant:
        context = without_overrides(context)
    elif rules is not None:
        (order,) = {rule.order - 1 for _, rule in rules if isinstance(rule, ByRule)}
        rules = tuple(
            (p, dataclasses.replace(r, order=order) if isinstance(r, ByRule) else r)
            for p, r in rules
        )
        context = with_rules(context, rules, f"metagrad at order {order}")
    return lower_jaxpr(ctx.replace(module_context=context), jaxpr, *operands)


mlir.register_lowering(function_p, _lower)
