"""Functions that are run and not differentiated.

JAX's own rules lower them, whatever overrides are in force around them.
"""

from __future__ import annotations

import jax
from jax.extend import core
from jax.extend.core import Primitive, jaxpr_as_fun, primitives
from jax.interpreters import mlir

from metagrad.frontend import capabilities, prints
from metagrad.frontend.exact_lowerings import value_and_derivative
from metagrad.runtime import jax_internals

as_run_p = jax_internals.keep_when_lowered(Primitive("metagrad_as_run"))
as_run_p.multiple_results = True


@as_run_p.def_abstract_eval
def _as_run_shapes(*avals, jaxpr):
    return jaxpr.out_avals


_KEPT = (*prints.MUTED, primitives.remat_p)
"""The primitives whose overrides are in force in what is run, too."""


def _lower_as_run(ctx: mlir.LoweringRuleContext, *operands, jaxpr: core.ClosedJaxpr):
    """Lowers by JAX's own rules, without a derivative beside the value.

    So what runs is bit for bit what the user wrote.
    """
    ctx = ctx.replace(
        module_context=value_and_derivative.without_overrides(ctx.module_context, keep=_KEPT)
    )
    return mlir.lower_fun(jaxpr_as_fun(jaxpr))(ctx, *operands)


mlir.register_lowering(as_run_p, _lower_as_run)


def as_run(jaxpr: core.ClosedJaxpr) -> core.ClosedJaxpr:
    """The function as a jaxpr that is lowered as JAX lowers it: to be run, not differentiated."""
    return jax.make_jaxpr(lambda *args: as_run_p.bind(*args, jaxpr=jaxpr))(*jaxpr.in_avals)


def is_overridden(jaxpr: core.Jaxpr) -> bool:
    """Whether anything in it is lowered differently to be differentiated than to be run."""
    overridden = {primitive for primitive, _ in capabilities.overrides()}
    return any(
        eqn.primitive in overridden or any(map(is_overridden, core.jaxprs_in_params(eqn.params)))
        for eqn in jaxpr.eqns
    )
