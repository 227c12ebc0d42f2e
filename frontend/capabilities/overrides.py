"""The lowering rules that the table asks for."""

from functools import partial

from jax.extend.core import primitives as P
from jax.interpreters import mlir

from metagrad.frontend.capabilities.table import CAPABILITIES
from metagrad.frontend.capabilities.true_rules import CustomRule, HiRule
from metagrad.frontend.dtypes import is_complex, is_float
from metagrad.frontend.exact_lowerings.jaxs_rules import ByRule
from metagrad.frontend.exact_lowerings.value_and_derivative import (
    jax_lowering,
    lower_stop_gradient,
)
from metagrad.frontend.jaxprs import hi_primitives


def overrides() -> tuple:
    """The rules by which a function that Enzyme differentiates must be lowered.

    They are for `LoweringParameters(override_lowering_rules=...)`.

    Some leave custom calls that the compiler raises (compiler/passes/raise_gradients.py).
    """
    rules = [(p, _lowering(p, c)) for p, c in CAPABILITIES.items() if c.lowering or c.by_rule]
    return (
        *rules,
        (P.custom_jvp_call_p, CustomRule(P.custom_jvp_call_p)),
        (hi_primitives.hi_call_p, HiRule(hi_primitives.hi_call_p)),
        (P.stop_gradient_p, lower_stop_gradient),
    )


def _lowering(primitive, capability):
    otherwise = (
        partial(_rule, primitive, capability)
        if capability.lowering
        else partial(jax_lowering, primitive)
    )
    if not capability.by_rule:
        return otherwise
    when = capability.by_rule if callable(capability.by_rule) else None
    return ByRule(
        primitive,
        constant=capability.constant,
        when=when,
        otherwise=otherwise,
        in_rule=capability.in_rule,
    )


def _rule(primitive, capability, ctx, *operands, **params):
    lowering = capability.lowering
    if not any(map(is_float, ctx.avals_in)):
        lowering = capability.of_integers
    if lowering is None or any(map(is_complex, ctx.avals_in)):
        return jax_lowering(primitive, ctx, *operands, **params)
    if capability.is_rule:
        return lowering(ctx, *operands, **params)
    return mlir.lower_fun(lowering, multiple_results=primitive.multiple_results)(
        ctx, *operands, **params
    )
