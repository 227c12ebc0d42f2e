"""The custom rules of JAX's own functions that are true derivatives of what they compute.

A rule that is the derivative of its function keeps the Hessian of a loss symmetric, which the mixed
mode rests on. Most are lowered as any rule is, beside the value (exact_lowerings/jaxs_rules.py); a
few have a lowering by hand.

What is compared is the rule, not the name: a user may give the function inside `jax.nn.relu` a rule
of their own.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterable

import jax
from jax.extend import core, linear_util
from jax.extend.core import primitives
from jax.interpreters import mlir

from metagrad.frontend import blockwise_attention
from metagrad.frontend.dtypes import is_float
from metagrad.frontend.exact_lowerings import activations, powers
from metagrad.frontend.exact_lowerings.jaxs_rules import ByRule, constant
from metagrad.frontend.exact_lowerings.value_and_derivative import (
    jax_lowering,
    lower_jaxpr,
    value,
)
from metagrad.frontend.jaxprs import hi_primitives
from metagrad.frontend.jaxprs.calls import call
from metagrad.runtime import jax_internals

_ROWS: tuple[tuple[str, str, Callable | None], ...] = (
    ("nn.functions", "relu", activations.relu),
    ("nn.functions", "relu6", activations.relu6),
    ("nn.functions", "_softmax", None),
    ("nn.functions", "log1mexp", None),
    ("lax.other", "logaddexp", None),
    ("lax.other", "logaddexp2", None),
    ("numpy.ufuncs", "_sinc_maclaurin", None),  # up to 0.11
    ("numpy.ufuncs", "_frexp", None),  # up to 0.11
    ("numpy.lax_numpy", "i1_impl", None),  # from 0.12 on
    ("numpy.lax_numpy", "_i1_maclaurin", None),  # from 0.12 on
    ("scipy.special", "logit", None),
    ("scipy.special", "xlogy", None),
    ("scipy.special", "xlog1py", None),
    ("scipy.special", "_xlogx", None),
    ("scipy.special", "log_ndtr", None),
    ("scipy.special", "_erfcx", None),
    ("scipy.special", "_ndtri", None),  # from 0.12 on
    ("scipy.special", "_ndtri_grad", None),  # from 0.12 on
    ("scipy.special", "_rel_entr", None),  # from 0.12 on
    ("scipy.special", "_dawsn", None),
    ("scipy.special", "expi", None),
    ("scipy.special", "zeta", None),
    ("scipy.special", "sici", None),
    ("scipy.special", "poch", None),
    ("scipy.special", "_owens_t_impl", None),
    ("third_party.scipy.special", "fresnel", None),
)
"""Module and name of each function, and its lowering, where there is one by hand.

No JAX has all of them.

Not among them: jnp.i0 and optax's weighted_logsoftmax, where what the rule says beside its tangent
has another derivative (at 0); and `_erfcx_grad`, whose rule fails on arrays (jax 0.12.0.1).
"""

TRUE_RULES: dict[jax.custom_jvp, Callable | None] = {
    function: by_hand
    for module, name, by_hand in _ROWS
    if isinstance(function := jax_internals.function(module, name), jax.custom_jvp)
}
"""The functions that this JAX has."""

LEFT_TO_JAX: dict[jax.custom_jvp, str] = {
    blockwise_attention.attend: (
        "metagrad.dot_product_attention, whose blocks JAX computes again and Enzyme would keep"
    ),
}
"""Functions of ours whose rules are true derivatives and are JAX's work, and why they are."""

_HI_ROWS: tuple[tuple[str, str, Callable | None], ...] = (
    ("numpy.ufuncs", "Frexp", None),
    # Its rule is itself. What is linear cannot be lowered by its rule, since no order would be the
    # last.
    ("numpy.ufuncs", "Ldexp", powers.ldexp),
)
"""The same of the functions that are hi primitives (jaxprs/hi_primitives.py)."""

TRUE_HI_RULES: dict[Callable, Callable | None] = {
    kind: by_hand
    for module, name, by_hand in _HI_ROWS
    if (kind := jax_internals.function(module, name)) is not None
}
"""Those that this JAX has."""


def true_rule(params: dict) -> jax.custom_jvp | None:
    """The function above whose `custom_jvp_call` has these parameters, if there is one."""
    return _whose_rule(params, TRUE_RULES)


def left_to_jax(params: dict) -> str | None:
    """Why JAX differentiates the function whose `custom_jvp_call` has these parameters, if it is
    one of ours with a true derivative.
    """
    function = _whose_rule(params, LEFT_TO_JAX)
    return None if function is None else LEFT_TO_JAX[function]


def _whose_rule(params: dict, functions: Iterable[jax.custom_jvp]) -> jax.custom_jvp | None:
    source = params["call_jaxpr"].jaxpr.debug_info.func_src_info
    for function in functions:
        if source == jax_internals.source_of(function.fun) and _leads_to(
            params["jvp_jaxpr_fun"], function.jvp
        ):
            return function
    return None


def true_hi_rule(eqn: core.JaxprEqn) -> bool:
    """Whether the rule of a hi primitive is known to be the true derivative."""
    return jax_internals.kind_of_hi_primitive(eqn.params) in TRUE_HI_RULES


def has_true_derivative(eqn: core.JaxprEqn) -> bool:
    """Whether an equation has no rule of its own, or one known to be the true derivative."""
    called = call(eqn)
    if called is None or not called.has_rule:
        return True
    if hi_primitives.is_hi(eqn):
        return hi_primitives.is_constant(eqn) or true_hi_rule(eqn)
    return eqn.primitive is primitives.custom_jvp_call_p and bool(
        true_rule(eqn.params) or left_to_jax(eqn.params)
    )


_LAYERS = ("jax.", "metagrad.frontend.jaxprs.auto_axes")


def _leads_to(rule, wanted) -> bool:
    """Whether a traced rule is made of the function `wanted`, and not of another one.

    The rule in an equation is JAX's own layers (flattening, batching, dead code elimination,
    memoising), and ours for other meshes, around the function that was given to `defjvp`. Code of
    others is not looked into.
    """
    seen: dict[int, object] = {}
    queue = [rule]
    while queue:
        layer = queue.pop()
        if layer is wanted:
            return True
        if id(layer) in seen:
            continue
        seen[id(layer)] = layer
        if isinstance(layer, linear_util.WrappedFun):
            queue += [layer.f, layer.f_transformed]
        elif isinstance(layer, functools.partial):
            queue += [layer.func, *layer.args]
        elif isinstance(layer, tuple | list):
            queue += layer
        elif isinstance(layer, types.FunctionType) and layer.__module__.startswith(_LAYERS):
            queue += [
                cell.cell_contents for cell in layer.__closure__ or () if cell != types.CellType()
            ]
    return False


class CustomRule(ByRule):
    """The lowering of a `custom_jvp_call`."""

    def __call__(self, ctx, *operands, **params):
        function = true_rule(params)
        if function is None:
            return lower_jaxpr(ctx, params["call_jaxpr"], *operands)
        by_hand = TRUE_RULES[function]
        # Those by hand are of one operand, element by element; under vmap as well.
        if by_hand and len(operands) == 1 and ctx.avals_in[0].shape == ctx.avals_out[0].shape:
            return mlir.lower_fun(by_hand, multiple_results=False)(ctx, *operands)
        return super().__call__(ctx, *operands, **params)

    def value(self, *xs, **params) -> list:
        return constant(params["call_jaxpr"], *xs)


class HiRule(ByRule):
    """The lowering of a hi primitive of which a derivative is wanted."""

    def __call__(self, ctx, *operands, **params):
        if not any(map(is_float, ctx.avals_out)):
            return jax_lowering(self.primitive, ctx, *operands, **params)
        by_hand = TRUE_HI_RULES.get(jax_internals.kind_of_hi_primitive(params))
        if by_hand is not None:
            return mlir.lower_fun(by_hand)(ctx, *operands, **params)
        return super().__call__(ctx, *operands, **params)

    def value(self, *xs, **params) -> list:
        return value(self.primitive, *xs, **params)
