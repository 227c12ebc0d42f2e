"""The custom rules of JAX's and optax's own functions, which are the true derivatives of what they compute.

A rule that is the derivative of its function keeps the Hessian of a loss symmetric, which the mixed mode rests on. Most are lowered as any rule is,
beside the value (exact_lowerings/jaxs_rules.py); a few have a lowering by hand.

What is compared is the rule, not the name: a user may give the function inside `jax.nn.relu` a rule of their own.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable

import jax
import jax.nn
from jax._src import core
from jax._src.api_util import fun_sourceinfo
from jax._src.interpreters import mlir
from jax._src.lax import other
from jax._src.nn import functions as nn
from jax._src.numpy import ufuncs
from jax._src.scipy import special
from jax._src.third_party.scipy import special as fresnel
from jax.extend.core import primitives as P

from metagrad.frontend.exact_lowerings import activations
from metagrad.frontend.exact_lowerings.jaxs_rules import ByRule, constant, movable, tangent
from metagrad.frontend.exact_lowerings.values import is_float, lower_jaxpr

# With the lowering, where there is one by hand.
# Not among them: jnp.i0 and optax's weighted_logsoftmax, where what the rule says beside its tangent has another derivative (at 0).
TRUE_RULES: dict[jax.custom_jvp, Callable | None] = {
    jax.nn.relu: activations.relu,
    jax.nn.relu6: activations.relu6,
    other.logaddexp: activations.logaddexp,
    other.logaddexp2: None,
    nn._softmax: None,
    nn.log1mexp: None,
    ufuncs._sinc_maclaurin: None,
    ufuncs._frexp: None,
    special.logit: None,
    special.xlogy: None,
    special.xlog1py: None,
    special._xlogx: None,
    special.log_ndtr: None,
    special._erfcx: None,
    special._dawsn: None,
    special.expi: None,
    special.zeta: None,
    special.sici: None,
    special.poch: None,
    special._owens_t_impl: None,
    fresnel.fresnel: None,
}


def true_rule(params: dict) -> jax.custom_jvp | None:
    """The function above whose `custom_jvp_call` has these parameters, if there is one."""
    said = params["call_jaxpr"].jaxpr.debug_info.func_src_info
    for function in TRUE_RULES:
        if said == fun_sourceinfo(function.fun) and _same_rule(function, params):
            return function
    return None


def _same_rule(function, params) -> bool:
    avals = params["call_jaxpr"].in_avals
    if function.nondiff_argnums:
        # Such an argument is inside the traced rule; but these have a rule of one piece, which its source line tells from any other.
        return params["jvp_jaxpr_fun"].debug_info.func_src_info == fun_sourceinfo(function.jvp)
    if any(not is_float(a) for a in avals):
        return False
    # What the function closes over comes first.
    given = avals[len(avals) - len(inspect.signature(function.fun).parameters) :]
    return _printed(params, avals) == _genuine(function, tuple((a.shape, a.dtype, a.weak_type) for a in given))


@functools.lru_cache(maxsize=1024)
def _genuine(function, described) -> str:
    avals = [core.ShapedArray(shape, dtype, weak_type=weak) for shape, dtype, weak in described]
    (eqn,) = [e for e in jax.make_jaxpr(function)(*avals).eqns]
    return _printed(eqn.params, eqn.params["call_jaxpr"].in_avals)


def _printed(params, avals) -> str:
    return str(tangent(P.custom_jvp_call_p, params, avals, movable(avals)))


class CustomRule(ByRule):
    """The lowering of a `custom_jvp_call`."""

    def __call__(self, ctx, *operands, **params):
        function = true_rule(params)
        by_hand = TRUE_RULES[function] if function is not None else None
        if by_hand and all(map(is_float, ctx.avals_in)):
            return mlir.lower_fun(by_hand, multiple_results=False)(ctx, *operands)
        if function is None:
            return lower_jaxpr(ctx, params["call_jaxpr"], *operands)
        return super().__call__(ctx, *operands, **params)

    def value(self, *xs, **params) -> list:
        return constant(params["call_jaxpr"], *xs)
