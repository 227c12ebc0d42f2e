"""Checks a function against the table.

Finds the equations that Enzyme is not known to differentiate as JAX does.

Cost: one walk over the jaxpr, and one over each of JAX's own rules that is lowered beside a value.
"""

import dataclasses
from collections.abc import Sequence

from jax.extend import core, source_info_util
from jax.extend.core import primitives as P

from metagrad.frontend.capabilities.table import BOTH, CAPABILITIES, NOT_ENZYME, WITHOUT_DERIVATIVE
from metagrad.frontend.capabilities.true_rules import (
    TRUE_HI_RULES,
    TRUE_RULES,
    left_to_jax,
    true_hi_rule,
    true_rule,
)
from metagrad.frontend.dtypes import is_complex, is_float
from metagrad.frontend.exact_lowerings import jaxs_rules
from metagrad.frontend.jaxprs import hi_primitives
from metagrad.frontend.jaxprs.calls import call
from metagrad.runtime import jax_internals

CUSTOM_RULE = "custom rule"
"""The reason against a `custom_jvp` or `custom_vjp` function not known to be a true derivative."""


@dataclasses.dataclass(frozen=True)
class Unproven:
    """An equation that Enzyme is not known to differentiate as JAX does."""

    primitive: str
    source: str
    why: str

    def __iter__(self):
        return iter((self.primitive, self.source, self.why))


@dataclasses.dataclass(frozen=True)
class Walk:
    """One search: the mode, how many orders of rules are left (jaxs_rules.py), and its results."""

    mode: str
    order: int
    unproven_equations: dict[Unproven, None]

    def dry(self) -> "Walk":
        return dataclasses.replace(self, unproven_equations={})


def unproven(jaxpr, mode: str, active: Sequence[bool] | None = None) -> list[Unproven]:
    """The equations of a closed jaxpr that Enzyme is not known to differentiate as JAX does.

    Args:
        jaxpr: a `ClosedJaxpr`, as `jax.make_jaxpr` gives it.
        mode: "reverse" for first order, "forward" for forward over reverse.
        active: for each input, whether it is differentiated; without it, all float inputs are.

    Returns:
        One entry (primitive, the user's source line, why) per equation; empty if Enzyme may
            differentiate the function.
        An equation without a float operand that depends on an active input needs no proof: indices,
            masks, random bits.
    """
    if mode not in BOTH:
        raise ValueError(f"mode must be 'reverse' or 'forward', not {mode!r}")
    walk = Walk(mode, jaxs_rules.ORDERS, {})
    if active is None:
        active = [True] * len(jaxpr.in_avals)
    _walk(jaxpr.jaxpr, list(active), walk)
    return list(walk.unproven_equations)


def active_results(jaxpr, active: Sequence[bool]) -> list[bool]:
    """Which results of a closed jaxpr carry a derivative, given which of its inputs do."""
    return _walk(jaxpr.jaxpr, list(active), Walk("reverse", jaxs_rules.ORDERS, {}))


def _walk(jaxpr, active, walk):
    """Adds the unproven equations of an open jaxpr to the walk's; says which outputs are active."""
    live = {v for v, a in zip(jaxpr.invars, active) if a and _carries(v.aval)}

    def carries(v):
        return not isinstance(v, core.Literal) and v in live

    for eqn in jaxpr.eqns:
        inputs = [carries(v) for v in eqn.invars]
        outputs = _equation(eqn, inputs, walk)
        live.update(v for v, a in zip(eqn.outvars, outputs) if a and _carries(v.aval))
    return [carries(v) for v in jaxpr.outvars]


def _carries(aval):
    return is_float(aval) or is_complex(aval)


def _equation(eqn, inputs, walk):
    """Which outputs of an equation are active, given which inputs are."""
    primitive, none = eqn.primitive, [False] * len(eqn.outvars)
    every = [any(inputs)] * len(eqn.outvars)
    avals = [v.aval for v in eqn.invars]

    def unknown(why):
        walk.unproven_equations[
            Unproven(primitive.name, source_info_util.summarize(eqn.source_info), why)
        ] = None
        return every

    if not any(inputs) or primitive is P.stop_gradient_p or primitive in WITHOUT_DERIVATIVE:
        return none
    if hi_primitives.is_hi(eqn):
        if hi_primitives.is_constant(eqn):
            return none
        if not true_hi_rule(eqn):
            return unknown(CUSTOM_RULE)
        by_hand = TRUE_HI_RULES[jax_internals.kind_of_hi_primitive(eqn.params)]
        if not by_hand and (why := _in_the_rule(eqn, inputs, walk)):
            return unknown(why)
        return every
    called = call(eqn)
    if primitive is P.while_p:
        return _while(called, inputs, walk, unknown)
    if called is not None and not called.has_rule:
        return _through(called, inputs, len(eqn.outvars), walk)
    if any(is_complex(v.aval) for v in (*eqn.invars, *eqn.outvars)):
        return unknown("complex numbers")
    if any(is_float(v.aval) and v.aval.dtype.itemsize < 2 for v in (*eqn.invars, *eqn.outvars)):
        return unknown("floats of 8 bits or fewer")
    if primitive is P.custom_jvp_call_p:
        if why := left_to_jax(eqn.params):
            return unknown(why)
        function = true_rule(eqn.params)
        if function is None or eqn.params["symbolic_zeros"]:
            return unknown(CUSTOM_RULE)
        return (
            every
            if TRUE_RULES[function] or not (why := _in_the_rule(eqn, inputs, walk))
            else unknown(why)
        )
    if primitive is P.custom_vjp_call_p:
        return unknown(CUSTOM_RULE)
    capability = CAPABILITIES.get(primitive)
    if capability is None:
        return unknown(NOT_ENZYME.get(primitive, "no evidence that Enzyme's derivative is JAX's"))
    if walk.mode not in capability.modes:
        return unknown(
            f"{' and '.join(capability.modes) or 'no'} mode is proven, {walk.mode} mode is not"
        )
    if capability.when and (why := capability.when(eqn.params, avals, inputs)):
        return unknown(why)
    if any(active and i in capability.constant for i, active in enumerate(inputs)):
        return unknown("a derivative in an operand in which JAX has none")
    if capability.takes_rule(eqn.params, avals) and (why := _in_the_rule(eqn, inputs, walk)):
        return unknown(why)
    return every


def _in_the_rule(eqn, inputs, walk) -> str | None:
    """Why JAX's rule for an equation is not covered, or None."""
    if not walk.order:
        return None
    avals = [v.aval for v in eqn.invars]
    moves = [a and m for a, m in zip(inputs, jaxs_rules.movable(avals))]
    rule = jaxs_rules.tangent(eqn.primitive, eqn.params, avals, moves)
    if rule is None:
        return "JAX has no derivative of it"
    operands = inputs if walk.mode == "forward" else [False] * len(inputs)
    inside = Walk(walk.mode, walk.order - 1, {})
    _walk(rule.jaxpr, [*operands, *(True for m in moves if m)], inside)
    return next((f"its rule has {u.primitive}: {u.why}" for u in inside.unproven_equations), None)


def _through(called, inputs, count, walk):
    """Which of the `count` results of a call are active, given which operands are."""
    outputs = [False] * count
    for body in called.bodies:
        # Equations are judged once the carry has settled.
        settled = _settled(body, inputs, walk)
        for i, active in zip(body.results, _walk(body.jaxpr.jaxpr, settled, walk)):
            outputs[i] |= active
    return outputs


def _settled(body, inputs, walk):
    """What is active in a body's inputs once it has stopped growing from turn to turn."""
    active = [inputs[i] for i in body.operands]
    while body.carry:
        outputs = _walk(body.jaxpr.jaxpr, active, walk.dry())
        grown = list(active)
        for output, into in body.carry:
            grown[into] |= outputs[output]
        if grown == active:
            break
        active = grown
    return active


def _while(called, inputs, walk, unknown):
    (_, body) = called.bodies
    settled = _settled(body, inputs, walk)
    active = [settled[into] for _, into in body.carry]
    if any(active):
        unknown(
            "a while_loop whose result is differentiated; JAX has no reverse mode for it either. "
            "Say it as a scan or a fori_loop with a fixed number of turns"
        )
    return active
