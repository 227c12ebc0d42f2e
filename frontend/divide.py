"""Cuts the step into pieces and decides for each who differentiates it.

If it is JAX, the derivative is made here; if it is Enzyme, later.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from jax.extend import core

from metagrad.frontend import partition, split_step
from metagrad.frontend.as_run import as_run, is_overridden
from metagrad.frontend.emit_mlir import Derivatives, Piece, Pieces
from metagrad.frontend.jaxprs import stopped_values
from metagrad.frontend.jaxprs.activity import Activity
from metagrad.frontend.partition import Decision
from metagrad.frontend.split_step import Site


@dataclasses.dataclass(frozen=True)
class Division:
    """Who differentiates what.

    Attributes:
      decisions: one for each gradient, nested gradient, the update and the outer function; for
        inputs only where JAX has them.
      pieces: the functions, with the VJPs that JAX made.
      of_site: for each gradient, the derivatives that JAX made.
    """

    decisions: list[Decision]
    pieces: Pieces
    of_site: list[Derivatives]


def divide(
    step: core.ClosedJaxpr,
    sites: Sequence[Site],
    outer: core.ClosedJaxpr,
    names: tuple[str, str],
    active: Activity,
    ad: str,
) -> Division:
    """Decides for each function, and has JAX make the derivatives that are its part.

    Args:
      step: the step, its gradients marked.
      sites: the gradients.
      outer: the outer function.
      names: what the user calls the step and the outer function.
      active: where there are cotangents.
      ad: the option of that name.
    """
    step_name, outer_name = names
    update = split_step.update_of(step, sites)
    nested = partition.nested_gradients(update.jaxpr)
    decisions, of_site = [], []
    if not sites and not nested:
        decisions.append(
            Decision(
                f"the inner gradient of {step_name}", "expanded", ("no metagrad.grad in the step",)
            )
        )
    for site in sites:
        operands, seeds = active.losses[site.index], active.gradients[site.index]
        decision = partition.decide_gradient(site, operands, seeds, ad)
        decisions.append(decision)
        of_site.append(_derivatives_by_jax(site, operands, seeds, decision.rule))
    decisions += nested

    label = f"the update of {step_name}"
    decision, vjp = _first_order(
        label,
        split_step.first_results(update, len(active.state)),
        active.of_update(update),
        active.of_new_state(),
        ad,
    )
    decisions.append(decision)
    update_piece = _update(update, vjp)

    inputs = []
    for site in sites:
        label = f"the inputs of {step_name}'s gradient {site.index}"
        reader = split_step.inputs_of(step, sites, site.index)
        decision, vjp = _first_order(
            label, reader, active.of_update(reader), active.active_operands(site.index), ad
        )
        if vjp is not None:
            decisions.append(decision)
        inputs.append(Piece(stopped_values.drop_unread_derivatives(reader), vjp))

    value, flags = split_step.first_results(outer, 1), active.of_outer(outer)
    decision = partition.decide_first_order(outer_name, value, flags, ad)
    decisions.append(decision)
    by_jax = decision.rule != "enzyme"
    vjp = as_run(partition.value_and_vjp(value, flags, outer_name)) if by_jax else None
    pieces = Pieces(
        update_piece, tuple(inputs), Piece(stopped_values.drop_unread_derivatives(outer), vjp)
    )
    return Division(decisions, pieces, of_site)


def _first_order(
    label: str, function: core.ClosedJaxpr, flags: Sequence[bool], seeded: list[int], ad: str
) -> tuple[Decision, core.ClosedJaxpr | None]:
    """The decision on a function that is differentiated once, and its VJP if that is JAX's part.

    Args:
      flags: the operands in which a derivative is wanted.
      seeded: the results with a cotangent, by index.
    """
    decision = partition.decide_first_order(label, function, flags, ad)
    if decision.rule == "enzyme":
        return decision, None
    return decision, as_run(partition.vjp(function, flags, seeded, label))


def _update(update: core.ClosedJaxpr, vjp: core.ClosedJaxpr | None) -> Piece:
    """The update as a piece: what runs is as JAX lowers it, bit for bit.

    It is lowered a second time only if Enzyme needs another lowering of it.
    """
    if vjp is not None:
        return Piece(as_run(update), vjp)
    differentiated = stopped_values.drop_unread_derivatives(update)
    if is_overridden(differentiated.jaxpr):
        return Piece(differentiated, run=as_run(update))
    return Piece(update)


def _derivatives_by_jax(
    site: Site, operands: Sequence[bool], seeds: Sequence[int], rule: str
) -> Derivatives:
    if rule == "enzyme":
        return {}
    # Enzyme goes over this one again, so it is lowered for it; the others are only run.
    derivatives = (
        {"vjp": partition.loss_vjp(site, operands, seeds)} if rule == "jax-reverse" else {}
    )
    if rule in ("jax", "jax-mixed"):
        product = partition.gradient_vjp if rule == "jax" else partition.gradient_vjp_mixed
        derivatives["grad_vjp"] = as_run(product(site, operands, seeds))
    return derivatives | {"grad": as_run(partition.gradient(site))}
