"""A value apart from its derivative: what the exact lowerings are built from.

    plain(p, x)     JAX's lowering of the primitive p, Enzyme's derivative of that
    value(p, x)     the same without a derivative
    stopped(x)      x as a constant of differentiation, at every order
    stopped_once(x) x as a constant of the first differentiation; the second goes through it
    attach(v, d)    the value of v, with the derivative of d added to its own
    moving(x)       zero, with the derivative of x

The zeros inside `attach` and `moving` are marked. The compiler removes them from the finished
program (compiler/dialect/known_zeros.py), and with them all that the derivative does not need. So d
need not be finite.
"""

import dataclasses

import numpy as np
from jax import lax
from jax.extend import core
from jax.extend.core import primitives
from jax.interpreters import mlir

from metagrad.compiler.dialect import metagrad
from metagrad.runtime import jax_internals

plain_p = core.Primitive("as_jax_lowers_it")
plain_p.multiple_results = True


@plain_p.def_abstract_eval
def _plain_shapes(*operands, of, parameters):
    out = of.abstract_eval(*operands, **dict(parameters))[0]
    return out if of.multiple_results else [out]


def jax_lowering(of, ctx, *operands, **parameters):
    """Lowers the primitive `of` by JAX's own rule, whatever overrides are in force."""

    def apply(*xs):
        out = of.bind(*xs, **of.get_bind_params(parameters))
        return out if of.multiple_results else [out]

    return mlir.lower_fun(apply)(
        ctx.replace(module_context=without_overrides(ctx.module_context)), *operands
    )


def without_overrides(context, keep=()):
    """The module's context with JAX's own rules, and with caches of its own.

    JAX caches the lowering of an equation by its primitive, parameters and types, not by the rule:
    what was lowered without a derivative must not be found where one is wanted, nor the other way
    round.

    Args:
        keep: primitives whose overrides stay in force.
    """
    rules = context.lowering_parameters.override_lowering_rules
    if rules is None:
        return context
    kept = tuple(rule for rule in rules if rule[0] in keep)
    return with_rules(context, kept or None, f"metagrad without overrides but {kept}")


def with_rules(context, rules, name):
    """The module's context with other overrides; `name` is that of its caches."""
    parameters_with_rules = dataclasses.replace(
        context.lowering_parameters, override_lowering_rules=rules
    )
    caches = context.cached_primitive_lowerings.setdefault(name, ({}, {}))
    return context.replace(
        lowering_parameters=parameters_with_rules,
        lowering_cache=caches[0],
        cached_primitive_lowerings=caches[1],
    )


def lower_jaxpr(ctx, jaxpr, *operands):
    """Lowers a closed jaxpr in place, each equation by the rule that is in force for it.

    `mlir.lower_fun` would trace it once more, and a custom function would be taken apart before its
    rule is looked up.
    """
    results, _ = mlir.jaxpr_subcomp(
        ctx.module_context,
        jaxpr.jaxpr,
        ctx.name_stack,
        mlir.TokenSet(),
        jax_internals.ir_constants(jaxpr.consts, [v.aval for v in jaxpr.jaxpr.constvars]),
        *operands,
        dim_var_values=ctx.dim_var_values,
        const_lowering=ctx.const_lowering,
        outer_traceback=None,
    )
    return results


mlir.register_lowering(
    plain_p, lambda ctx, *xs, of, parameters: jax_lowering(of, ctx, *xs, **dict(parameters))
)


def plain(of, *operands, **parameters):
    """The primitive `of` with JAX's lowering and Enzyme's derivative; overrides are built on it."""
    out = plain_p.bind(*operands, of=of, parameters=tuple(parameters.items()))
    return out if of.multiple_results else out[0]


def value(of, *operands, **parameters):
    """What the primitive `of` computes, as a constant of differentiation.

    Its op never meets an active operand.
    """
    return plain(of, *map(stopped, operands), **parameters)


def without_derivative(primitive):
    return lambda *operands, **parameters: value(primitive, *operands, **parameters)


def stopped(x):
    """x as a constant of differentiation.

    `lax.stop_gradient` leaves integers and booleans alone; this does not.
    """
    return primitives.stop_gradient_p.bind(x)


stopped_once_p = core.Primitive("constant_once")
anchor_p = core.Primitive("anchor")


def _lower_as_custom_call(target):
    """Lowers to a custom call, since JAX's lowering knows no op of Enzyme's.

    The compiler raises it (compiler/passes/raise_gradients.py).
    """

    def lower(ctx, x):
        return jax_internals.custom_call(target, result_types=[x.type], operands=[x]).results

    return lower


for _primitive, _target in ((stopped_once_p, metagrad.ONCE), (anchor_p, metagrad.ANCHOR)):
    _primitive.def_abstract_eval(lambda x: x)
    mlir.register_lowering(_primitive, _lower_as_custom_call(_target))

lower_stop_gradient = _lower_as_custom_call(metagrad.STOP_GRADIENT)


def stopped_once(x):
    """x as a constant of the first differentiation; what comes out of that depends on x."""
    return stopped_once_p.bind(x)


def moving(x):
    """Zero, with the derivative of x."""
    return x - anchor_p.bind(x)


def attach(v, d):
    """v, with the derivative of d added to its own."""
    return v - (anchor_p.bind(d) - d)


def same_shape(*xs):
    """The operands in one shape: `select` needs it, JAX's elementwise primitives broadcast."""
    shape = np.broadcast_shapes(*(x.shape for x in xs))
    return [
        x
        if x.shape == shape
        else lax.broadcast_in_dim(x, shape, range(len(shape) - x.ndim, len(shape)))
        for x in xs
    ]
