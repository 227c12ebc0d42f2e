"""Who differentiates each function of a step.

It is Enzyme where that is proven to give JAX's derivative, and JAX elsewhere.

Enzyme differentiates StableHLO, where custom rules are gone. So every function is checked on its
jaxpr against the table (capabilities/table.py):

    enzyme        all of it is proven: Enzyme does every order.
    jax-reverse   JAX makes the backward pass when the function is traced, Enzyme the forward mode
                  over it (the mixed-mode product of an inner gradient).
    jax-mixed     JAX makes both, forward over reverse. The gradient is a true gradient, so the
                  product is symmetric.
    jax           JAX makes both, reverse over reverse: a custom rule need not be the true
                  derivative, and then the mixed-mode rule does not hold.
    nested-mixed  as jax-mixed, for a gradient in a loop or a branch, by the rules of
                  grad_primitive.py and as part of the update.
    nested-jax    as jax, for such a gradient.
    expanded      the step has no `metagrad.grad`.
    forward       the run is in forward mode (frontend/forward/), which is JAX's.

"jax" is the definition, and so never wrong; the others are faster.

A function with `jax.checkpoint` in it is left to JAX even if Enzyme is exact: JAX recomputes what
the user wants recomputed, and Enzyme would keep it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from jax.extend import core
from jax.extend.core import jaxpr_as_fun, primitives

from metagrad.frontend import capabilities, fused_kernels
from metagrad.frontend.dtypes import is_float
from metagrad.frontend.grad_primitive import (
    expanded,
    floats,
    grad_p,
    has_true_gradient,
    product,
    product_p,
    pull,
)
from metagrad.frontend.jaxprs import blocks
from metagrad.frontend.jaxprs.interpret import equations
from metagrad.frontend.jaxprs.lines import lines_of_custom_vjps, users_line
from metagrad.frontend.split_step import Site
from metagrad.runtime import jax_errors
from metagrad.runtime.moving_operands import filled

MODES = ("auto", "enzyme", "jax")


@dataclasses.dataclass(frozen=True)
class Decision:
    """Who differentiates one function, and why.

    Attributes:
      function: the function as the user knows it.
      rule: "enzyme", "jax-reverse", "jax-mixed" or "jax"; "nested-mixed" or "nested-jax" for a
        gradient inside a loop or a branch; "expanded" for a step without any `metagrad.grad`;
        "forward" in a run in forward mode.
      why: one sentence for each reason.
      first_order: whether the function is differentiated once, in reverse (the update, the outer
        function), and not twice as an inner gradient is.
    """

    function: str
    rule: str
    why: tuple[str, ...] = ()
    first_order: bool = False

    def __str__(self) -> str:
        who = {
            "enzyme": "Enzyme",
            "jax-reverse": "JAX (reverse), Enzyme (forward over it)",
            "jax-mixed": "JAX (forward over reverse)",
            "jax": "JAX" if self.first_order else "JAX (reverse over reverse)",
            "nested-mixed": "JAX (forward over reverse), as part of the update",
            "nested-jax": "JAX (reverse over reverse), as part of the update",
            "forward": "JAX (forward mode)",
            "expanded": "expanded by JAX and differentiated as part of the update, without the "
            "mixed mode",
        }[self.rule]
        return "\n".join([f"{self.function}: {who}", *(f"    {reason}" for reason in self.why)])


def decide_first_order(
    label: str, jaxpr: core.ClosedJaxpr, active: Sequence[bool], ad: str
) -> Decision:
    """For a function that is differentiated once, in reverse: the update, the outer function.

    Raises:
      NotImplementedError: `ad` is "enzyme" and something in the function is not proven.
    """
    by_jax = functools.partial(Decision, label, "jax", first_order=True)
    if ad == "jax":
        return by_jax(("asked for with ad='jax'",))
    missing = capabilities.unproven(jaxpr, "reverse", active)
    if missing:
        return _not_enzyme(by_jax(_reasons(missing)), ad)
    return _unless_recomputed(Decision(label, "enzyme", first_order=True), jaxpr, "jax", ad)


def decide_gradient(site: Site, active: Sequence[bool], seeded: Sequence[int], ad: str) -> Decision:
    """For an inner gradient: reverse mode, and the product with its Jacobian."""
    if ad == "jax":
        return Decision(site.label, "jax", ("asked for with ad='jax'",))
    moving = _moving(site, active)
    reverse = capabilities.unproven(site.loss, "reverse", moving)
    forward = capabilities.unproven(site.loss, "forward", moving)
    by_jax = "jax-mixed" if has_true_gradient(site.loss.jaxpr) else "jax"
    if not reverse and not forward:
        return _unless_recomputed(Decision(site.label, "enzyme"), site.loss, by_jax, ad)
    reasons = _reasons([*reverse, *(item for item in forward if item not in reverse)])
    if by_jax == "jax-mixed" and not _checkpoints(site.loss):
        pullback = loss_vjp(site, active, seeded)
        if not capabilities.unproven(
            pullback, "forward", [*moving, *(True for _ in pullback.in_avals[len(moving) :])]
        ):
            by_jax = "jax-reverse"
    return _not_enzyme(Decision(site.label, by_jax, reasons), ad)


def nested_gradients(jaxpr: core.Jaxpr) -> list[Decision]:
    """The inner gradients in a loop, a branch or another function of the step.

    JAX differentiates them by the rules of grad_primitive.py.
    """
    decisions: dict[Decision, None] = {}
    for eqn in equations(jaxpr, into=lambda eqn: eqn.primitive is not grad_p):
        if eqn.primitive is grad_p:
            rule = "nested-mixed" if has_true_gradient(eqn.params["jaxpr"].jaxpr) else "nested-jax"
            decision = Decision(eqn.params["label"], rule, ("not at the top level of the step",))
            decisions[decision] = None
    return list(decisions)


def _moving(site: Site, active: Sequence[bool]) -> list[bool]:
    """The operands in which the loss is differentiated.

    Those of the user's `argnums`, and those that carry a derivative of the run.
    """
    return [flag or i in site.wrt for i, flag in enumerate(active)]


def _unless_recomputed(
    decision: Decision, jaxpr: core.ClosedJaxpr, by_jax: str, ad: str
) -> Decision:
    """The decision for JAX, where the user asked for recomputation; else as it was."""
    checkpoints = _checkpoints(jaxpr)
    if not checkpoints:
        return decision
    consequence = (
        " is not honoured, as ad='enzyme' was asked for"
        if ad == "enzyme"
        else ": JAX computes again what Enzyme would keep"
    )

    def reason(eqn):
        if blocks.is_block(eqn):
            return f'remat="blocks"{consequence}'
        line = users_line(eqn)
        return f"jax.checkpoint{consequence}" + (f" ({line})" if line else "")

    why = tuple(dict.fromkeys(map(reason, checkpoints)))
    return dataclasses.replace(decision, rule=decision.rule if ad == "enzyme" else by_jax, why=why)


def _checkpoints(jaxpr: core.ClosedJaxpr) -> list[core.JaxprEqn]:
    return [eqn for eqn in equations(jaxpr.jaxpr) if eqn.primitive is primitives.remat_p]


def _reasons(missing) -> tuple[str, ...]:
    def reason(name, line, why):
        what = (
            "an inner gradient in a loop, a branch or another function"
            if name in (grad_p.name, product_p.name)
            else f"{name}: {why}"
        )
        return f"{what} ({line})" if line else what

    return tuple(dict.fromkeys(reason(*item) for item in missing))


def _not_enzyme(decision: Decision, ad: str) -> Decision:
    if ad == "enzyme":
        raise NotImplementedError(
            f"ad='enzyme', but Enzyme is not proven to differentiate {decision.function} as JAX "
            "does:\n  "
            + "\n  ".join(decision.why)
            + "\nUse ad='auto' to let JAX differentiate this function."
        )
    return decision


# --- What JAX makes -------------------------------------------------------------------------------


def vjp(
    jaxpr: core.ClosedJaxpr, active: Sequence[bool], seeded: Sequence[int], label: str
) -> core.ClosedJaxpr:
    """(operands, cotangents of the float results) -> cotangents of the float operands.

    Those that are not active are zero.

    Args:
      jaxpr: the function.
      active: the operands that get a cotangent.
      seeded: the results that have one, by index. What is given for another is not used.
      label: the function as the user knows it.

    Raises:
      NotImplementedError: JAX cannot differentiate the function in reverse (a `while_loop` on what
        is differentiated).
    """
    return _traced(label, jaxpr, active, jaxpr.out_avals, seeded, functools.partial(pull, jaxpr))


def value_and_vjp(jaxpr: core.ClosedJaxpr, active: Sequence[bool], label: str) -> core.ClosedJaxpr:
    """(operands, cotangent of the value) -> (value, cotangents of the float operands).

    The function has one result; arguments and errors are as of `vjp`. The value comes from the
    forward pass of the VJP. Where that keeps little (`remat="blocks"`, `jax.checkpoint`), XLA does
    not merge another one with it.
    """
    operands, (value,) = jaxpr.in_avals, jaxpr.out_avals
    where = [i for i in floats(operands) if active[i]]

    def run(*args):
        *primals, seed = args

        def of_active(*values):
            (result,) = jaxpr_as_fun(jaxpr)(*filled(primals, where, values))
            return result

        if not where:
            return [of_active(), *_of_floats(operands, {})]
        result, pullback = jax.vjp(of_active, *(primals[i] for i in where))
        return [result, *_of_floats(operands, dict(zip(where, pullback(seed))))]

    with _named(label, jaxpr, active):
        return jax.make_jaxpr(run)(*operands, value)


def loss_vjp(site: Site, active: Sequence[bool], seeded: Sequence[int]) -> core.ClosedJaxpr:
    """The backward pass of a loss, for Enzyme's forward mode.

    `seeded` are the results of the gradient that have a cotangent, by index.
    """
    return _traced(
        site.label,
        site.loss,
        _moving(site, active),
        site.loss.out_avals,
        [0, *seeded],
        functools.partial(pull, site.loss),
    )


def gradient(site: Site) -> core.ClosedJaxpr:
    """operands -> (value, aux, gradients)."""
    with _named(site.label, site.loss, [i in site.wrt for i in range(len(site.loss.in_avals))]):
        return jax.make_jaxpr(lambda *args: expanded(*args, jaxpr=site.loss, wrt=site.wrt))(
            *site.loss.in_avals
        )


def gradient_vjp(site: Site, active: Sequence[bool], seeded: Sequence[int]) -> core.ClosedJaxpr:
    """(operands, cotangents of `gradient`'s float results) -> cotangents of the float operands.

    JAX's reverse over reverse.

    Args:
      seeded: the results that have a cotangent, by index. What is given for another is not used.
    """
    return _traced(
        site.label, site.loss, active, site.results, seeded, functools.partial(pull, gradient(site))
    )


def gradient_vjp_mixed(
    site: Site, active: Sequence[bool], seeded: Sequence[int]
) -> core.ClosedJaxpr:
    """The same by forward over reverse."""
    return _traced(
        site.label,
        site.loss,
        active,
        site.results,
        seeded,
        functools.partial(product, site.loss, site.wrt),
    )


def _traced(
    label: str,
    function: core.ClosedJaxpr,
    active: Sequence[bool],
    results: Sequence,
    seeded: Sequence[int],
    pull_back,
) -> core.ClosedJaxpr:
    """(operands, cotangents of the float results) -> cotangents of the float operands.

    `pull_back` makes the active ones, the others are zero.

    Only the cotangents of the results `seeded` are passed on: the others have none, whatever number
    stands in their place.
    """
    operands = function.in_avals
    count = len(operands)
    where = [i for i in floats(operands) if active[i]]
    of_floats = floats(results)

    def run(*args):
        cotangents = {i: cotangent for i, cotangent in zip(of_floats, args[count:]) if i in seeded}
        pulled = pull_back(args[:count], cotangents, where) if where and cotangents else ()
        return _of_floats(operands, dict(zip(where, pulled)))

    with _named(label, function, active):
        return jax.make_jaxpr(run)(*operands, *(results[i] for i in of_floats))


def _of_floats(operands: Sequence, cotangents: Mapping[int, jax.Array]) -> list[jax.Array]:
    """The cotangents of all float operands: zero for one that has none."""
    return [
        cotangents[i] if i in cotangents else jnp.zeros(aval.shape, aval.dtype)
        for i, aval in enumerate(operands)
        if is_float(aval)
    ]


@contextlib.contextmanager
def _named(label: str, jaxpr: core.ClosedJaxpr, active: Sequence[bool]):
    """Refuses what JAX cannot differentiate, with the user's function and the lines in question.

    JAX's own message has no line.
    """
    try:
        yield
    except (TypeError, ValueError, NotImplementedError) as error:
        if kernels := fused_kernels.kernels_in(jaxpr, error):
            raise NotImplementedError(fused_kernels.refusal(label, kernels)) from error
        if jax_errors.speaks_of_another_mesh(error):
            raise NotImplementedError(
                f"{label} has a custom rule (with symbolic_zeros=True, say) over arrays whose "
                "types have shardings, which metagrad cannot differentiate yet. Make the mesh with "
                "Auto axes: jax.make_mesh(..., axis_types=(jax.sharding.AxisType.Auto, ...)). "
                f"JAX says: {error}"
            ) from error
        if lines := lines_of_custom_vjps(jaxpr.jaxpr):
            raise NotImplementedError(
                f"a tangent goes through a custom_vjp function in {label} ({'; '.join(lines)}), "
                "and that has a rule for reverse mode alone. Tangents of a metagradient, as "
                "jax.jvp, jax.jacfwd and jax.hessian take them, need a custom_jvp there, or none."
            ) from error
        suspects = [
            item
            for item in capabilities.unproven(jaxpr, "reverse", active)
            if jax_errors.refuses_reverse(error, item.primitive)
        ]
        places = "".join(f"\n  {item.primitive} ({item.source})" for item in suspects)
        raise NotImplementedError(
            f"JAX cannot differentiate {label}, and the metagradient needs its derivative:\n"
            f"  {error}{places}"
        ) from error
