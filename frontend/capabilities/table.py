"""Which JAX primitives Enzyme differentiates exactly as JAX does: the table.

A function that the compiler differentiates is traced to a jaxpr. If each of its equations is proven
for the mode in which it is needed (check.py), Enzyme differentiates it, lowered with overrides
(overrides.py); if not, JAX does. A missing entry costs speed; a wrong entry gives wrong numbers. So
an entry is made only when the cases in tests/capabilities/ show that it holds, and the tests fail
when it no longer does.

Modes:
    reverse   Enzyme's reverse mode gives what `jax.vjp` gives, edge values included.
    forward   Enzyme's forward mode over that reverse program gives what `jax.jvp` of it gives:
              second order, mixed mode.

"Gives" means: equal to rounding; finite where JAX is finite and not finite where JAX is not, for
finite operands and any cotangents. Where an operand is infinite Enzyme may have a NaN and JAX a
number, but never the reverse. Where JAX's formula overflows on the way and Enzyme's does not,
Enzyme has the number. The table's notes say where.
"""

import dataclasses
from collections.abc import Callable, Sequence

from jax import lax
from jax.extend import core
from jax.extend.core import primitives as P

from metagrad.frontend.exact_lowerings import (
    activations,
    choices,
    contractions,
    indexing,
    orderings,
    powers,
    prefixes,
    value_and_derivative,
    windows,
)
from metagrad.runtime import jax_internals

BOTH = ("reverse", "forward")


@dataclasses.dataclass(frozen=True)
class Capability:
    """What is proven of one primitive.

    Attributes:
        modes: the modes proven; empty for a primitive that is listed only for its lowering.
        when: `when(params, in_avals, active)` gives a reason why this equation is NOT covered, or
            None; `active` says which operands carry a derivative.
        lowering: what replaces JAX's lowering of operands with a float among them; a JAX function
            of the primitive's operands and parameters, or with `is_rule` an MLIR lowering rule.
        of_integers: what replaces it for operands without a float among them.
        by_rule: JAX's own rule is lowered beside the value (exact_lowerings/jaxs_rules.py), and
            must be proven itself. A function `by_rule(params, in_avals)` says for which equations;
            `lowering` is for the others.
        in_rule: `in_rule(params)` gives the parameters with which value and rule are lowered then.
        constant: operands in which JAX has no derivative, or `when` admits none.
        note: what to know about it.
    """

    modes: tuple[str, ...] = BOTH
    when: Callable | None = None
    lowering: Callable | None = None
    is_rule: bool = False
    of_integers: Callable | None = None
    by_rule: bool | Callable = False
    in_rule: Callable | None = None
    constant: Sequence[int] = ()
    note: str = ""

    def takes_rule(self, params, in_avals) -> bool:
        return self.by_rule(params, in_avals) if callable(self.by_rule) else self.by_rule


def undilated_window(params, in_avals, active):
    if any(d != 1 for d in params["window_dilation"]):
        return "window_dilation, for which JAX has no derivative"
    return None


def constant_padding(params, in_avals, active):
    if active[1]:
        return "a padding value that is differentiated"
    if not prefixes.leaves_some(in_avals[0], params["padding_config"]):
        return "negative padding that takes away all"
    return None


def constant_coefficients(params, in_avals, active):
    # The derivative in the coefficients is another polynomial, whose own derivative is lost when no
    # order is left.
    return "coefficients that are differentiated" if any(active[1:]) else None


def distinct_factors(params, in_avals, active):
    if active[2] and not params["unique_indices"]:
        return (
            "factors at indices that may repeat, for which JAX has no derivative: "
            "say unique_indices=True if they do not"
        )
    return None


def axes_of_the_array(params, in_avals, active):
    if any(isinstance(axis, str) for axis in params["axes"]):
        return "a sum over devices, or over an axis of vmap that is still there"
    return None


# Linear in each operand, or elementwise and smooth: Enzyme's rule is JAX's.
PLAIN = [
    P.add_p,
    P.sub_p,
    P.mul_p,
    P.neg_p,
    P.square_p,
    P.abs_p,
    P.exp_p,
    P.exp2_p,
    P.expm1_p,
    P.sin_p,
    P.cos_p,
    P.sinh_p,
    P.cosh_p,
    P.asinh_p,
    P.atan_p,
    P.atan2_p,
    P.tanh_p,
    P.erf_p,
    P.erfc_p,
    P.erf_inv_p,
    P.asin_p,
    P.acos_p,
    P.rem_p,
    P.convert_element_type_p,
    P.copy_p,
    P.add_jaxvals_p,
    P.broadcast_in_dim_p,
    P.reshape_p,
    P.transpose_p,
    P.squeeze_p,
    P.concatenate_p,
    lax.stack_p,
    jax_internals.unstack_p,
    lax.tile_p,
    P.rev_p,
    P.slice_p,
    lax.split_p,
    P.dynamic_slice_p,
    P.dynamic_update_slice_p,
    P.reduce_sum_p,
    # The identity, which compiler/dialect/placements.py brings through Enzyme as a product.
    P.sharding_constraint_p,
]

# No derivative passes, not even a zero that could meet an infinity.
STEPS = [P.sign_p, P.floor_p, P.ceil_p, P.round_p, P.bitcast_convert_type_p, P.argmax_p, P.argmin_p]
WITHOUT_DERIVATIVE = [
    *STEPS,
    P.is_finite_p,
    P.eq_p,
    P.ne_p,
    P.lt_p,
    P.le_p,
    P.gt_p,
    P.ge_p,
    P.eq_to_p,
    P.lt_to_p,
    P.le_to_p,
]

# JAX's rule beside the value.
BY_RULE = [
    P.sqrt_p,
    P.cbrt_p,
    P.pow_p,
    P.tan_p,
    P.acosh_p,
    P.atanh_p,
    P.lgamma_p,
    P.digamma_p,
    P.igamma_p,
    P.igammac_p,
    P.bessel_i0e_p,
    P.bessel_i1e_p,
    P.eigh_p,
    P.svd_p,
]
if jax_internals.one_minus_square_p is not None:
    BY_RULE.append(jax_internals.one_minus_square_p)

NOT_ENZYME = dict.fromkeys(
    [P.cholesky_p, P.lu_p, P.qr_p, P.eig_p, P.triangular_solve_p, P.tridiagonal_solve_p],
    "computed by LAPACK, of which Enzyme has no derivative",
) | {
    P.fft_p: "complex numbers",
    P.linear_solve_p: "its derivative is another solve, which JAX sets up",
}

AT_INFINITY = "second order is NaN where an operand is infinite and JAX has 0"

CAPABILITIES: dict[core.Primitive, Capability] = (
    {p: Capability() for p in PLAIN}
    | {p: Capability(by_rule=True) for p in BY_RULE}
    | {p: Capability(modes=(), lowering=value_and_derivative.without_derivative(p)) for p in STEPS}
    | {
        P.polygamma_p: Capability(by_rule=True, constant=(0,)),
        P.random_gamma_p: Capability(modes=("reverse",), by_rule=True),
        P.igamma_grad_a_p: Capability(modes=(), by_rule=True, constant=(0, 1)),
        P.regularized_incomplete_beta_p: Capability(by_rule=True, constant=(0, 1)),
        P.div_p: Capability(
            note=AT_INFINITY
            + "; a number where the square of the denominator overflows, in which JAX has NaN"
        ),
        P.log_p: Capability(note=AT_INFINITY),
        P.log1p_p: Capability(note=AT_INFINITY),
        P.rsqrt_p: Capability(note=AT_INFINITY),
        P.integer_pow_p: Capability(
            by_rule=powers.the_exponent_is_below_minus_one, note=AT_INFINITY + "; exponent -1"
        ),
        P.dot_general_p: Capability(lowering=contractions.dot_general),
        P.conv_general_dilated_p: Capability(lowering=contractions.conv),
        P.pad_p: Capability(lowering=prefixes.pad, when=constant_padding),
        P.gather_p: Capability(lowering=indexing.gather),
        P.scatter_add_p: Capability(lowering=indexing.scatter(P.scatter_add_p)),
        P.scatter_min_p: Capability(by_rule=True, in_rule=indexing.without_promises),
        P.scatter_max_p: Capability(by_rule=True, in_rule=indexing.without_promises),
        P.scatter_mul_p: Capability(lowering=indexing.scatter_mul, when=distinct_factors),
        lax.scatter_sub_p: Capability(lowering=indexing.scatter_sub),
        P.scatter_p: Capability(
            lowering=indexing.scatter(P.scatter_p), by_rule=indexing.targets_may_repeat
        ),
        # The order that it asks for means nothing to a derivative.
        lax.optimization_barrier_p: Capability(lowering=lambda *xs: xs),
        P.name_p: Capability(lowering=lambda x, name: x),
        P.psum_p: Capability(lowering=prefixes.psum, when=axes_of_the_array),
        P.select_n_p: Capability(lowering=choices.select_n, of_integers=choices.select_integers),
        P.max_p: Capability(lowering=choices.larger_or_smaller(P.max_p)),
        P.min_p: Capability(lowering=choices.larger_or_smaller(P.min_p)),
        P.clamp_p: Capability(lowering=choices.clamp),
        P.reduce_max_p: Capability(lowering=choices.extreme(P.reduce_max_p)),
        P.reduce_min_p: Capability(lowering=choices.extreme(P.reduce_min_p)),
        P.logistic_p: Capability(lowering=powers.logistic, is_rule=True),
        P.sort_p: Capability(lowering=orderings.sort),
        P.top_k_p: Capability(lowering=orderings.top_k),
        P.approx_top_k_p: Capability(lowering=orderings.approx_top_k),
        P.cumsum_p: Capability(lowering=prefixes.prefix(lax.add)),
        P.cumprod_p: Capability(lowering=prefixes.prefix(lax.mul)),
        P.cummax_p: Capability(lowering=prefixes.prefix(lax.max)),
        P.cumlogsumexp_p: Capability(lowering=prefixes.prefix(activations.logaddexp)),
        P.cummin_p: Capability(lowering=prefixes.prefix(lax.min)),
        P.reduce_prod_p: Capability(lowering=prefixes.product),
        P.reduce_window_sum_p: Capability(lowering=windows.window_sum),
        P.reduce_window_max_p: Capability(
            lowering=windows.window_extreme(lax.ge, float("-inf")), when=undilated_window
        ),
        P.reduce_window_min_p: Capability(
            lowering=windows.window_extreme(lax.le, float("inf")), when=undilated_window
        ),
        P.select_and_gather_add_p: Capability(lowering=windows.gather_chosen),
        P.select_and_scatter_add_p: Capability(lowering=windows.scatter_chosen),
    }
)
if jax_internals.polynomial_p is not None:
    CAPABILITIES[jax_internals.polynomial_p] = Capability(
        by_rule=True,
        when=constant_coefficients,
        constant=range(1, 2**16),
        note="the coefficients being constants",
    )
