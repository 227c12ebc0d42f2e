"""Which JAX primitives Enzyme differentiates exactly as JAX does: the table, and the check of a function against it.

A function that the compiler differentiates is traced to a jaxpr. If each of its equations is proven for the mode in which it is
needed, Enzyme differentiates it, lowered with `overrides()`; if not, JAX does. An omission here costs speed, a wrong entry
gives wrong numbers: an entry is made when the cases in tests/capabilities/ show it, and the tests fail when they stop doing so.

Modes:
    reverse   Enzyme's reverse mode gives what `jax.vjp` gives, edge values included.
    forward   Enzyme's forward mode over that reverse program gives what `jax.jvp` of it gives: second order, mixed mode.

"Gives" means: equal to rounding; finite where JAX is finite and not finite where JAX is not, for finite operands and any cotangents.
Where an operand is infinite Enzyme may have a NaN for JAX's number, never a number for JAX's NaN; the table's notes say where.

Cost: one walk over the jaxpr.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jax._src import source_info_util
from jax._src.interpreters import mlir
from jax._src.lax import lax as lax_internal
from jax._src.lax import other as lax_other
from jax.extend import core
from jax.extend.core import primitives as P

from . import exact_lowerings as exact

BOTH = ("reverse", "forward")


@dataclasses.dataclass(frozen=True)
class Capability:
    """What is proven of one primitive.

    Attributes:
        modes: the modes proven; empty for a primitive that is listed only for its lowering.
        when: `when(params, in_avals, active)` gives a reason why this equation is NOT covered, or None; `active` says
            which operands carry a derivative.
        lowering: what replaces JAX's lowering of operands with a float among them; a JAX function of the primitive's
            operands and parameters, or with `is_rule` an MLIR lowering rule.
        note: what to know about it.
    """

    modes: tuple[str, ...] = BOTH
    when: Callable | None = None
    lowering: Callable | None = None
    is_rule: bool = False
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Unproven:
    """An equation that Enzyme is not known to differentiate as JAX does."""

    primitive: str
    source: str
    why: str

    def __iter__(self):
        return iter((self.primitive, self.source, self.why))


def small_window(params, in_avals, active):
    if exact.window_volume(params) > exact.LARGEST_WINDOW:
        return f"windows of more than {exact.LARGEST_WINDOW} elements"
    return None


def small_undilated_window(params, in_avals, active):
    if any(d != 1 for d in params["window_dilation"]):
        return "window_dilation, for which JAX has no derivative"
    return small_window(params, in_avals, active)


def constant_padding(params, in_avals, active):
    if active[1]:
        return "a padding value that is differentiated"
    if any(low < 0 or high < 0 for low, high, _ in params["padding_config"]):
        return "negative padding"
    return None


def distinct_targets(params, in_avals, active):
    """Where two updates meet JAX picks one and gives it the cotangent, Enzyme gives it to both."""
    single = math.prod(in_avals[1].shape[:-1]) == 1
    if active[2] and not single and not params["unique_indices"]:
        return "indices that may repeat: say unique_indices=True if they do not"
    return None


def one_type(params, in_avals, active):
    wanted = {a.dtype for a in in_avals} | {jnp.dtype(params["preferred_element_type"] or in_avals[0].dtype)}
    if len(wanted) > 1:
        return "operands and result of different types: " + ", ".join(sorted(map(str, wanted)))
    return None


# Linear in each operand, or elementwise and smooth: Enzyme's rule is JAX's.
PLAIN = [
    P.add_p, P.sub_p, P.mul_p, P.neg_p, P.square_p, P.abs_p, P.exp_p, P.exp2_p, P.expm1_p,
    P.sin_p, P.cos_p, P.sinh_p, P.cosh_p, P.asinh_p, P.atan_p, P.atan2_p, P.tanh_p, P.erf_p, P.erfc_p,
    P.erf_inv_p, P.asin_p, P.acos_p, P.rem_p, P.sign_p, P.floor_p, P.ceil_p, P.round_p, P.convert_element_type_p,
    P.copy_p, P.broadcast_in_dim_p, P.reshape_p, P.transpose_p, P.squeeze_p,
    P.concatenate_p, lax_internal.stack_p, lax_internal.unstack_p, lax_internal.tile_p, P.rev_p, P.slice_p, lax_internal.split_p, P.dynamic_slice_p, P.dynamic_update_slice_p,
    P.reduce_sum_p,
]

AT_INFINITY = "second order is NaN where an operand is infinite and JAX has 0"

CAPABILITIES: dict[core.Primitive, Capability] = {p: Capability() for p in PLAIN} | {
    P.div_p: Capability(note=AT_INFINITY),
    P.log_p: Capability(note=AT_INFINITY),
    P.log1p_p: Capability(note=AT_INFINITY),
    P.rsqrt_p: Capability(note=AT_INFINITY),
    P.cbrt_p: Capability(note=AT_INFINITY),
    P.integer_pow_p: Capability(lowering=exact.integer_pow, note=AT_INFINITY + "; exponents below 0"),
    P.dot_general_p: Capability(when=one_type),
    P.conv_general_dilated_p: Capability(when=one_type),
    P.pad_p: Capability(when=constant_padding),
    P.gather_p: Capability(lowering=exact.gather),
    P.scatter_add_p: Capability(lowering=exact.scatter(P.scatter_add_p)),
    P.scatter_p: Capability(lowering=exact.scatter(P.scatter_p), when=distinct_targets),
    # The order that it asks for means nothing to a derivative.
    lax_internal.optimization_barrier_p: Capability(lowering=lambda *xs: xs),
    P.lgamma_p: Capability(modes=("reverse",)),
    P.select_n_p: Capability(lowering=exact.select_n),
    P.max_p: Capability(lowering=exact.larger_or_smaller(P.max_p)),
    P.min_p: Capability(lowering=exact.larger_or_smaller(P.min_p)),
    P.clamp_p: Capability(lowering=exact.clamp),
    P.reduce_max_p: Capability(lowering=exact.extreme(P.reduce_max_p)),
    P.reduce_min_p: Capability(lowering=exact.extreme(P.reduce_min_p)),
    P.sqrt_p: Capability(lowering=exact.sqrt, note=AT_INFINITY),
    P.pow_p: Capability(lowering=exact.power),
    P.logistic_p: Capability(lowering=exact.logistic, is_rule=True),
    P.sort_p: Capability(lowering=exact.sort),
    P.top_k_p: Capability(lowering=exact.top_k),
    P.argmax_p: Capability(lowering=exact.chosen_index(P.argmax_p)),
    P.argmin_p: Capability(lowering=exact.chosen_index(P.argmin_p)),
    P.cumsum_p: Capability(lowering=exact.prefix(jax.lax.add)),
    P.cumprod_p: Capability(lowering=exact.prefix(jax.lax.mul)),
    P.cummax_p: Capability(lowering=exact.prefix(jax.lax.max)),
    P.cumlogsumexp_p: Capability(lowering=exact.prefix(lax_other.logaddexp)),
    P.cummin_p: Capability(lowering=exact.prefix(jax.lax.min)),
    P.reduce_prod_p: Capability(lowering=exact.product),
    P.reduce_window_sum_p: Capability(lowering=exact.window_sum, when=small_window),
    P.reduce_window_max_p: Capability(lowering=exact.window_extreme(jax.lax.ge, float("-inf")), when=small_undilated_window),
    P.reduce_window_min_p: Capability(lowering=exact.window_extreme(jax.lax.le, float("inf")), when=small_undilated_window),
}

# Rules of JAX's own library that are the derivative of their function, and how the function is lowered for Enzyme.
TRUE_RULES = {
    jax.nn.relu: exact.relu,
    jax.nn.relu6: exact.relu6,
    lax_other.logaddexp: exact.logaddexp,
}


def true_rule(eqn_params):
    """The lowering of a `custom_jvp_call` that is known to be a true derivative, else None.

    JAX's own functions are told from a user's of the same name by the file and line where they are defined.
    """
    info = eqn_params["call_jaxpr"].jaxpr.debug_info.func_src_info
    for function, lowering in TRUE_RULES.items():
        code = getattr(function.fun, "__wrapped__", function.fun).__code__
        if info == f"{code.co_name} at {code.co_filename}:{code.co_firstlineno}":
            return lowering
    return None


# --- The lowering rules ------------------------------------------------------------------------------------------


def is_float(aval):
    return jnp.issubdtype(getattr(aval, "dtype", jnp.int32), jnp.floating)


def is_complex(aval):
    return jnp.issubdtype(getattr(aval, "dtype", jnp.int32), jnp.complexfloating)


def carries_derivative(aval):
    return is_float(aval) or is_complex(aval)


def _rule(primitive, capability, ctx, *operands, **params):
    active = [is_float(a) for a in ctx.avals_in]
    if not any(active) or (capability.when and capability.when(params, ctx.avals_in, active)):
        return exact.jax_lowering(primitive, ctx, *operands, **params)
    if capability.is_rule:
        return capability.lowering(ctx, *operands, **params)
    return mlir.lower_fun(capability.lowering, multiple_results=primitive.multiple_results)(ctx, *operands, **params)


def _custom_jvp_rule(ctx, *operands, **params):
    lowering = true_rule(params)
    if lowering and all(map(is_float, ctx.avals_in)):
        return mlir.lower_fun(lowering, multiple_results=False)(ctx, *operands)
    return mlir.lower_fun(core.jaxpr_as_fun(params["call_jaxpr"]))(ctx, *operands)


def overrides() -> tuple:
    """The lowering rules with which a function that Enzyme differentiates must be lowered.

    For `LoweringParameters(override_lowering_rules=...)`, together with one for `stop_gradient`, which the rules here use, also on
    integers and booleans. That one has to outlive the first differentiation, because Enzyme removes `enzyme.ignore_derivatives`
    there and would differentiate through it at second order; and in the finished program `a - (stop_gradient(d) - d)` has
    to become `a` (exact_lowerings.py says why).
    """
    rules = [(p, partial(_rule, p, c)) for p, c in CAPABILITIES.items() if c.lowering]
    return (*rules, (P.custom_jvp_call_p, _custom_jvp_rule))


# --- The check of a function -------------------------------------------------------------------------------------


def unproven(jaxpr, mode: str, active: Sequence[bool] | None = None) -> list[Unproven]:
    """The equations of a closed jaxpr that Enzyme is not known to differentiate as JAX does.

    Args:
        jaxpr: a `ClosedJaxpr`, as `jax.make_jaxpr` gives it.
        mode: "reverse" for first order, "forward" for forward over reverse.
        active: for each input, whether it is differentiated; without it, all float inputs are.

    Returns:
        One entry (primitive, the user's source line, why) per equation; empty if Enzyme may differentiate the function.
        An equation without a float operand that depends on an active input needs no proof: indices, masks, random bits.
    """
    if mode not in BOTH:
        raise ValueError(f"mode must be 'reverse' or 'forward', not {mode!r}")
    found: dict[Unproven, None] = {}
    if active is None:
        active = [True] * len(jaxpr.in_avals)
    _walk(jaxpr.jaxpr, list(active), mode, found)
    return list(found)


def active_results(jaxpr, active: Sequence[bool]) -> list[bool]:
    """Which results of a closed jaxpr carry a derivative, given which of its inputs do."""
    return _walk(jaxpr.jaxpr, list(active), "reverse", {})


def _walk(jaxpr, active, mode, found):
    """Adds the unproven equations of an open jaxpr to `found`; gives which of its outputs are active."""
    live = {v for v, a in zip(jaxpr.invars, active) if a and carries_derivative(v.aval)}

    def carries(v):
        return not isinstance(v, core.Literal) and v in live

    for eqn in jaxpr.eqns:
        inputs = [carries(v) for v in eqn.invars]
        outputs = _equation(eqn, inputs, mode, found)
        live.update(v for v, a in zip(eqn.outvars, outputs) if a and carries_derivative(v.aval))
    return [carries(v) for v in jaxpr.outvars]


def _equation(eqn, inputs, mode, found):
    """Which outputs of an equation are active, given which inputs are."""
    primitive, none = eqn.primitive, [False] * len(eqn.outvars)
    every = [any(inputs)] * len(eqn.outvars)

    def unknown(why):
        found[Unproven(primitive.name, source_info_util.summarize(eqn.source_info), why)] = None
        return every

    if not any(inputs) or primitive is P.stop_gradient_p:
        return none
    if primitive in CALLS:
        return CALLS[primitive](eqn, inputs, mode, found)
    if any(is_complex(v.aval) for v in (*eqn.invars, *eqn.outvars)):
        return unknown("complex numbers")
    if primitive is P.custom_jvp_call_p and true_rule(eqn.params):
        return every
    if primitive in (P.custom_jvp_call_p, P.custom_vjp_call_p):
        return unknown("custom rule")
    capability = CAPABILITIES.get(primitive)
    if capability is None:
        # Comparisons and the like: no output can carry a derivative.
        if primitive in WITHOUT_DERIVATIVE:
            return none
        return unknown("no evidence that Enzyme's derivative is JAX's")
    if mode not in capability.modes:
        return unknown(f"{' and '.join(capability.modes) or 'no'} mode is proven, {mode} mode is not")
    if capability.when and (why := capability.when(eqn.params, [v.aval for v in eqn.invars], inputs)):
        return unknown(why)
    return every


WITHOUT_DERIVATIVE = {
    P.eq_p, P.ne_p, P.lt_p, P.le_p, P.gt_p, P.ge_p, P.is_finite_p, P.argmax_p, P.argmin_p, P.eq_to_p, P.lt_to_p, P.le_to_p,
}


def _call(name, eqn, inputs, mode, found):
    inner = eqn.params[name]
    return _walk(getattr(inner, "jaxpr", inner), inputs, mode, found)


def _cond(eqn, inputs, mode, found):
    branches = [_walk(b.jaxpr, inputs[1:], mode, found) for b in eqn.params["branches"]]
    return [any(outs) for outs in zip(*branches)]


def _scan(eqn, inputs, mode, found):
    constants, carried = eqn.params["num_consts"], eqn.params["num_carry"]
    consts, carry, xs = inputs[:constants], inputs[constants : constants + carried], inputs[constants + carried :]
    body = eqn.params["jaxpr"].jaxpr
    # What is active in the carry grows from turn to turn; equations are judged once it has settled.
    while True:
        outs = _walk(body, consts + carry + xs, mode, {})
        grown = [a or b for a, b in zip(carry, outs)]
        if grown == carry:
            return _walk(body, consts + carry + xs, mode, found)
        carry = grown


CALLS = {
    P.jit_p: partial(_call, "jaxpr"),
    P.closed_call_p: partial(_call, "call_jaxpr"),
    P.remat_p: partial(_call, "jaxpr"),
    P.cond_p: _cond,
    P.scan_p: _scan,
}
