"""Who differentiates what: for each function of a step, Enzyme where it is proven to mean what JAX means, JAX where it is not.

Enzyme differentiates StableHLO, where custom rules are gone.  So every function is checked on its jaxpr against the table in capabilities.py:

    enzyme        all of it is proven: Enzyme does every order.
    jax-reverse   JAX makes the backward pass when the function is traced, Enzyme the forward mode over it (the mixed-mode product of an inner gradient).
    jax-mixed     JAX makes both, forward over reverse. The gradient is a true gradient, so the product is symmetric.
    jax           JAX makes both, reverse over reverse: a custom rule need not be the true derivative, and then the mixed-mode rule does not hold.

"jax" is the meaning itself, and so never wrong; the others are faster.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax._src import core
from jax.extend.core import jaxpr_as_fun

from metagrad.frontend import capabilities
from metagrad.frontend.gradient import expanded
from metagrad.frontend.sites import Site

MODES = ("auto", "enzyme", "jax")

CUSTOM_RULE = "custom rule"
"""How the table names a `custom_jvp` or `custom_vjp` function that it does not know."""


@dataclasses.dataclass(frozen=True)
class Decision:
    """Who differentiates one function, and why.

    Attributes:
      function: the function as the user knows it.
      rule: "enzyme", "jax-reverse", "jax-mixed" or "jax"; "expanded" for a step that has no `metagrad.grad` at its top level.
      why: one sentence for each reason.
    """

    function: str
    rule: str
    why: tuple[str, ...] = ()

    def __str__(self) -> str:
        who = {
            "enzyme": "Enzyme",
            "jax-reverse": "JAX (reverse), Enzyme (forward over it)",
            "jax-mixed": "JAX (forward over reverse)",
            "jax": "JAX (reverse over reverse)",
            "expanded": "expanded by JAX and differentiated as part of the update, without the mixed mode",
        }[self.rule]
        return "\n".join([f"{self.function}: {who}", *(f"    {reason}" for reason in self.why)])


def decide_first_order(label: str, jaxpr: core.ClosedJaxpr, ad: str) -> Decision:
    """For a function that is differentiated once, in reverse: the optimiser's update, the outer function.

    Raises:
      NotImplementedError: `ad` is "enzyme" and something in the function is not proven.
    """
    missing = capabilities.unproven(jaxpr, "reverse")
    if ad == "jax":
        return Decision(label, "jax", ("asked for with ad='jax'",))
    if not missing:
        return Decision(label, "enzyme")
    return _not_enzyme(Decision(label, "jax", _reasons(missing)), ad)


def decide_gradient(site: Site, ad: str) -> Decision:
    """For an inner gradient: reverse mode, and the product with its Jacobian."""
    reverse = capabilities.unproven(site.loss, "reverse")
    forward = capabilities.unproven(site.loss, "forward")
    if ad == "jax":
        return Decision(site.label, "jax", ("asked for with ad='jax'",))
    if not reverse and not forward:
        return Decision(site.label, "enzyme")
    reasons = _reasons([*reverse, *(item for item in forward if item not in reverse)])
    if any(item.why == CUSTOM_RULE for item in (*reverse, *forward)) or _hides_custom_rule(site.loss.jaxpr):
        return _not_enzyme(Decision(site.label, "jax", reasons), ad)
    if not capabilities.unproven(loss_vjp(site), "forward"):
        return _not_enzyme(Decision(site.label, "jax-reverse", reasons), ad)
    return _not_enzyme(Decision(site.label, "jax-mixed", reasons), ad)


def _hides_custom_rule(jaxpr: core.Jaxpr) -> bool:
    """Whether a custom rule that is not known to be a true derivative is anywhere inside: the table does not look into an operation that it does not know."""
    for eqn in jaxpr.eqns:
        if "custom_jvp_call" in eqn.primitive.name or "custom_vjp_call" in eqn.primitive.name:
            if eqn.primitive.name != "custom_jvp_call" or not capabilities.true_rule(eqn.params):
                return True
        if any(_hides_custom_rule(inner) for inner in core.jaxprs_in_params(eqn.params)):
            return True
    return False


def _reasons(missing) -> tuple[str, ...]:
    unique = dict.fromkeys(f"{name}: {why} ({line})" if line else f"{name}: {why}" for name, line, why in missing)
    return tuple(unique)


def _not_enzyme(decision: Decision, ad: str) -> Decision:
    if ad == "enzyme":
        raise NotImplementedError(
            f"ad='enzyme', but Enzyme is not proven to differentiate {decision.function} as JAX does:\n  "
            + "\n  ".join(decision.why)
            + "\nUse ad='auto' to let JAX differentiate this function."
        )
    return decision


def _is_float(aval) -> bool:
    return jnp.issubdtype(aval.dtype, np.floating)


def _floats(avals: Sequence) -> list[int]:
    return [i for i, aval in enumerate(avals) if _is_float(aval)]


def _pull(function, operands: Sequence, cotangents: Sequence) -> list:
    """Cotangents of the float operands, from those of the float results, by `jax.vjp`."""
    where = _floats([core.typeof(operand) for operand in operands])

    def of_floats(*values):
        filled = list(operands)
        for i, value in zip(where, values):
            filled[i] = value
        return [result for result in function(*filled) if _is_float(core.typeof(result))]

    _, pullback = jax.vjp(of_floats, *(operands[i] for i in where))
    return list(pullback(list(cotangents)))


def vjp(jaxpr: core.ClosedJaxpr) -> core.ClosedJaxpr:
    """(operands, cotangents of the float results) -> cotangents of the float operands."""
    seeds = [aval for aval in jaxpr.out_avals if _is_float(aval)]
    count = len(jaxpr.in_avals)
    run = lambda *args: _pull(jaxpr_as_fun(jaxpr), args[:count], args[count:])
    return jax.make_jaxpr(run)(*jaxpr.in_avals, *seeds)


def loss_vjp(site: Site) -> core.ClosedJaxpr:
    return vjp(site.loss)


def gradient(site: Site) -> core.ClosedJaxpr:
    """operands -> (value, aux, gradients)."""
    return jax.make_jaxpr(lambda *args: expanded(*args, jaxpr=site.loss, wrt=site.wrt))(*site.loss.in_avals)


def gradient_vjp(site: Site) -> core.ClosedJaxpr:
    """(operands, cotangents of the float results of `gradient`) -> cotangents of the float operands; reverse over reverse."""
    return vjp(gradient(site))


def gradient_vjp_mixed(site: Site) -> core.ClosedJaxpr:
    """The same by forward over reverse: tangents of the loss's VJP, in its differentiated operands and its seeds."""
    pullback = loss_vjp(site)
    operands, outputs = len(site.loss.in_avals), len(site.loss.out_avals)
    results = site.results
    floats = _floats(results)

    def run(*args):
        primals, cotangents = args[:operands], dict(zip(floats, args[operands:]))
        of_results = _floats(site.loss.out_avals)
        seeds = [jnp.full(results[i].shape, 1 if i == 0 else 0, results[i].dtype) for i in of_results]
        moving = list(site.wrt) + [operands + j for j in range(len(seeds))]
        tangents = [cotangents[outputs + j] for j in range(len(site.wrt))] + [cotangents[i] for i in of_results]
        everything = [*primals, *seeds]

        def of_moving(*values):
            filled = list(everything)
            for i, value in zip(moving, values):
                filled[i] = value
            return jaxpr_as_fun(pullback)(*filled)

        return jax.jvp(of_moving, [everything[i] for i in moving], tangents)[1]

    return jax.make_jaxpr(run)(*site.loss.in_avals, *(results[i] for i in floats))
