"""Which JAX primitives Enzyme differentiates exactly as JAX does: the table.

A function that the compiler differentiates is traced to a jaxpr. If each of its equations is proven for the mode in which it is
needed (check.py), Enzyme differentiates it, lowered with overrides (lowering.py); if not, JAX does. An omission here costs speed, a wrong entry
gives wrong numbers: an entry is made when the cases in tests/capabilities/ show it, and the tests fail when they stop doing so.

Modes:
    reverse   Enzyme's reverse mode gives what `jax.vjp` gives, edge values included.
    forward   Enzyme's forward mode over that reverse program gives what `jax.jvp` of it gives: second order, mixed mode.

"Gives" means: equal to rounding; finite where JAX is finite and not finite where JAX is not, for finite operands and any cotangents.
Where an operand is infinite Enzyme may have a NaN for JAX's number, never a number for JAX's NaN; the table's notes say where.
"""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax._src import ad_util
from jax._src.lax import lax as lax_internal
from jax.extend import core
from jax.extend.core import primitives as P

from metagrad.frontend.exact_lowerings import activations, choices, contractions, indexing, orderings, singular, windows

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
        by_rule: JAX's own rule is lowered beside the value (exact_lowerings/jaxs_rules.py), and must be proven itself.
        constant: operands in which JAX has no derivative.
        note: what to know about it.
    """

    modes: tuple[str, ...] = BOTH
    when: Callable | None = None
    lowering: Callable | None = None
    is_rule: bool = False
    by_rule: bool = False
    constant: tuple[int, ...] = ()
    note: str = ""


def small_window(params, in_avals, active):
    if windows.window_volume(params) > windows.LARGEST_WINDOW:
        return f"windows of more than {windows.LARGEST_WINDOW} elements"
    return None


def small_undilated_window(params, in_avals, active):
    if any(d != 1 for d in params["window_dilation"]):
        return "window_dilation, for which JAX has no derivative"
    return small_window(params, in_avals, active)


def constant_padding(params, in_avals, active):
    if active[1]:
        return "a padding value that is differentiated"
    if not windows.leaves_some(in_avals[0], params["padding_config"]):
        return "negative padding that takes away all"
    return None


def distinct_targets(params, in_avals, active):
    """Where two updates meet JAX picks one and gives it the cotangent, Enzyme gives it to both."""
    single = math.prod(in_avals[1].shape[:-1]) == 1
    if active[2] and not single and not params["unique_indices"]:
        return "indices that may repeat: say unique_indices=True if they do not"
    return None


def one_type(params, in_avals, active):
    wanted = contractions.types(params, in_avals)
    if len(wanted) > 1:
        return "operands and result of different types: " + ", ".join(sorted(map(str, wanted)))
    return None


# Linear in each operand, or elementwise and smooth: Enzyme's rule is JAX's.
PLAIN = [
    P.add_p, P.sub_p, P.mul_p, P.neg_p, P.square_p, P.abs_p, P.exp_p, P.exp2_p, P.expm1_p,
    P.sin_p, P.cos_p, P.sinh_p, P.cosh_p, P.asinh_p, P.atan_p, P.atan2_p, P.tanh_p, P.erf_p, P.erfc_p,
    P.erf_inv_p, P.asin_p, P.acos_p, P.rem_p, P.sign_p, P.floor_p, P.ceil_p, P.round_p, P.convert_element_type_p,
    P.copy_p, ad_util.add_any_p, P.broadcast_in_dim_p, P.reshape_p, P.transpose_p, P.squeeze_p,
    P.concatenate_p, lax_internal.stack_p, lax_internal.unstack_p, lax_internal.tile_p, P.rev_p, P.slice_p, lax_internal.split_p, P.dynamic_slice_p, P.dynamic_update_slice_p,
    P.reduce_sum_p,
]

# JAX's rule beside the value.
BY_RULE = [P.tan_p, P.acosh_p, P.atanh_p, P.lgamma_p, P.digamma_p, P.igamma_p, P.igammac_p, P.bessel_i0e_p, P.bessel_i1e_p]

AT_INFINITY = "second order is NaN where an operand is infinite and JAX has 0"

CAPABILITIES: dict[core.Primitive, Capability] = {p: Capability() for p in PLAIN} | {p: Capability(by_rule=True) for p in BY_RULE} | {
    P.polygamma_p: Capability(by_rule=True, constant=(0,)),
    P.igamma_grad_a_p: Capability(modes=(), by_rule=True, constant=(0, 1)),
    P.regularized_incomplete_beta_p: Capability(by_rule=True, constant=(0, 1)),
    P.div_p: Capability(note=AT_INFINITY),
    P.log_p: Capability(note=AT_INFINITY),
    P.log1p_p: Capability(note=AT_INFINITY),
    P.rsqrt_p: Capability(note=AT_INFINITY),
    P.cbrt_p: Capability(note=AT_INFINITY),
    P.integer_pow_p: Capability(lowering=singular.integer_pow, note=AT_INFINITY + "; exponents below 0"),
    P.dot_general_p: Capability(lowering=contractions.dot_general),
    P.conv_general_dilated_p: Capability(when=one_type),
    P.pad_p: Capability(lowering=windows.pad, when=constant_padding),
    P.gather_p: Capability(lowering=indexing.gather),
    P.scatter_add_p: Capability(lowering=indexing.scatter(P.scatter_add_p)),
    P.scatter_p: Capability(lowering=indexing.scatter(P.scatter_p), when=distinct_targets),
    # The order that it asks for means nothing to a derivative.
    lax_internal.optimization_barrier_p: Capability(lowering=lambda *xs: xs),
    P.select_n_p: Capability(lowering=choices.select_n),
    P.max_p: Capability(lowering=choices.larger_or_smaller(P.max_p)),
    P.min_p: Capability(lowering=choices.larger_or_smaller(P.min_p)),
    P.clamp_p: Capability(lowering=choices.clamp),
    P.reduce_max_p: Capability(lowering=choices.extreme(P.reduce_max_p)),
    P.reduce_min_p: Capability(lowering=choices.extreme(P.reduce_min_p)),
    P.sqrt_p: Capability(lowering=singular.sqrt, note=AT_INFINITY),
    P.pow_p: Capability(lowering=singular.power),
    P.logistic_p: Capability(lowering=singular.logistic, is_rule=True),
    P.sort_p: Capability(lowering=orderings.sort),
    P.top_k_p: Capability(lowering=orderings.top_k),
    P.argmax_p: Capability(lowering=orderings.chosen_index(P.argmax_p)),
    P.argmin_p: Capability(lowering=orderings.chosen_index(P.argmin_p)),
    P.cumsum_p: Capability(lowering=windows.prefix(jax.lax.add)),
    P.cumprod_p: Capability(lowering=windows.prefix(jax.lax.mul)),
    P.cummax_p: Capability(lowering=windows.prefix(jax.lax.max)),
    P.cumlogsumexp_p: Capability(lowering=windows.prefix(activations.logaddexp)),
    P.cummin_p: Capability(lowering=windows.prefix(jax.lax.min)),
    P.reduce_prod_p: Capability(lowering=windows.product),
    P.reduce_window_sum_p: Capability(lowering=windows.window_sum, when=small_window),
    P.reduce_window_max_p: Capability(lowering=windows.window_extreme(jax.lax.ge, float("-inf")), when=small_undilated_window),
    P.reduce_window_min_p: Capability(lowering=windows.window_extreme(jax.lax.le, float("inf")), when=small_undilated_window),
}

WITHOUT_DERIVATIVE = {
    P.eq_p, P.ne_p, P.lt_p, P.le_p, P.gt_p, P.ge_p, P.is_finite_p, P.argmax_p, P.argmin_p, P.eq_to_p, P.lt_to_p, P.le_to_p,
}
