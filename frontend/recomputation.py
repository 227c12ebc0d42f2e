"""How the option `remat` enters a run: `jax.checkpoint` around blocks, and how it is lowered.

A derivative that JAX makes of a `jax.checkpoint` computes its function again. XLA would see that
the same was computed before, and keep it. JAX puts an optimization barrier between the two, which
XLA's CPU backend takes out before it looks for common expressions: half of what is to be computed
again is then kept, and the memory is that without the checkpoint. So for a CPU what is computed
again is a function of its own, called in one place and marked not to be inlined.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

from jax.extend import core
from jax.extend.core import primitives
from jax.interpreters import mlir

from metagrad.compiler.dialect import functions
from metagrad.frontend.exact_lowerings.value_and_derivative import lower_jaxpr
from metagrad.frontend.grad_primitive import grad_p, product_p
from metagrad.frontend.jaxprs.blocks import Blocks, recompute_blocks
from metagrad.frontend.jaxprs.calls import map_functions
from metagrad.frontend.jaxprs.interpret import equations
from metagrad.frontend.split_step import site_p
from metagrad.runtime import jax_internals

Recomputed: TypeAlias = dict[str, tuple[Blocks, ...]]
"""For each loss and the outer function, by name, the blocks that are computed again."""


def recompute_in_gradients(
    step: core.ClosedJaxpr, name: str
) -> tuple[core.ClosedJaxpr, Recomputed]:
    """The step with the blocks of each loss in a `jax.checkpoint`, and which they are, by loss.

    In a step without `metagrad.grad` the blocks are the step's own, under its `name`.
    """
    found: Recomputed = {}
    if not any(True for _ in gradients_in(step.jaxpr)):
        recomputing = recompute_blocks(step)
        return recomputing.function, {name: recomputing.blocks}

    def of_functions(function: core.ClosedJaxpr) -> core.ClosedJaxpr:
        old = function.jaxpr.eqns
        new = list(map(of_equation, old))
        if all(eqn is before for eqn, before in zip(new, old)):
            return function
        return core.ClosedJaxpr(function.jaxpr.replace(eqns=new), function.consts)

    def of_equation(eqn: core.JaxprEqn) -> core.JaxprEqn:
        if eqn.primitive in (grad_p, product_p):
            recomputing = recompute_blocks(eqn.params["jaxpr"])
            if eqn.primitive is grad_p:
                found[eqn.params["label"]] = recomputing.blocks
            if recomputing.function is eqn.params["jaxpr"]:
                return eqn
            return eqn.replace(params=eqn.params | {"jaxpr": recomputing.function})
        params = map_functions(eqn.params, of_functions)
        return eqn if params is eqn.params else eqn.replace(params=params)

    return of_functions(step), found


def gradients_in(step: core.Jaxpr) -> Iterator[core.JaxprEqn]:
    """The inner gradients of a step, wherever they are, and their derivatives."""
    outside = equations(step, into=lambda eqn: eqn.primitive not in _GRADIENTS)
    return (eqn for eqn in outside if eqn.primitive in _GRADIENTS)


_GRADIENTS = (grad_p, product_p, site_p)


# --- Lowering -------------------------------------------------------------------------------------


def lower_apart(ctx: mlir.LoweringRuleContext, *operands, jaxpr, prevent_cse, **params):
    """Lowers a `jax.checkpoint`, for a CPU: what is computed again is a function of its own."""
    is_repeated = params["differentiated"] and (
        any(prevent_cse) if isinstance(prevent_cse, tuple) else prevent_cse
    )
    function = core.ClosedJaxpr(jaxpr, ())
    if not is_repeated or jaxpr.effects:
        return lower_jaxpr(ctx, function, *operands)
    symbol = jax_internals.lower_function(ctx, "recomputed", function)
    results = [
        each for aval in ctx.avals_out for each in mlir.aval_to_ir_types(ctx.module_context, aval)
    ]
    return functions.call_apart(symbol, results, list(operands))


def rules(platform: str, devices: int) -> tuple:
    """The rules by which a `jax.checkpoint` is lowered for a platform, beside JAX's own.

    For several devices it is JAX's: a partitioner moves shardings through a barrier, and not
    through a call.
    """
    return ((primitives.remat_p, lower_apart),) if platform == "cpu" and devices == 1 else ()
