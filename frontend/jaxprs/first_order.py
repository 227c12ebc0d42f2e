"""Stops the derivative of inner gradients in their own parameters (`metagrad.FirstOrder`).

    (value, aux, g) = grad(operands)
->
    (value, aux) = loss(operands)         where a derivative goes on from them
    (.., .., g)  = grad(operands, those of `wrt` behind a stop_gradient)

Numbers stay as they are. Gradients are found in loops, branches and calls, but not in the loss of
another gradient, nor in a function with a custom rule.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
from jax import lax
from jax.extend import core
from jax.extend.core import jaxpr_as_fun
from jax.interpreters import partial_eval as pe

from metagrad.frontend.dtypes import is_float
from metagrad.frontend.grad_primitive import grad_p
from metagrad.frontend.jaxprs.calls import call, map_functions
from metagrad.frontend.jaxprs.interpret import bind, equations, interpret


def stop_parameters(step: core.ClosedJaxpr, leaves: int, name: str) -> core.ClosedJaxpr:
    """The step, its gradients taken for independent of their parameters.

    Args:
      step: (state, meta, batch) -> (state, aux).
      leaves: how many the state has; a derivative goes on from these results alone.
      name: what the user calls the step.

    Raises:
      ValueError: there is no `metagrad.grad` in the step.
    """
    if not any(eqn.primitive is grad_p for eqn in _looked_into(step.jaxpr)):
        raise ValueError(
            f"approximation=FirstOrder() finds no metagrad.grad in the step `{name}`, so there is "
            "nothing to leave out. Take the inner gradient by metagrad.grad, where the step has "
            "jax.grad."
        )
    wanted = [i < leaves for i in range(len(step.out_avals))]
    jaxpr, _ = pe.dce_jaxpr(step.jaxpr, wanted, instantiate=True)
    return _stopped(step, _read(jaxpr))


def _stopped(closed: core.ClosedJaxpr, read: set[core.Var]) -> core.ClosedJaxpr:
    if not any(eqn.primitive is grad_p for eqn in _looked_into(closed.jaxpr)):
        return closed

    def rule(eqn: core.JaxprEqn, operands: Sequence) -> list | None:
        if eqn.primitive is grad_p:
            return _gradient(eqn, operands, read)
        called = call(eqn)
        if called is None or called.has_rule:
            return None
        params = map_functions(eqn.params, lambda body: _stopped(body, _read(body.jaxpr)))
        return None if params is eqn.params else bind(eqn.replace(params=params), operands)

    return jax.make_jaxpr(lambda *args: interpret(closed, args, rule))(*closed.in_avals)


def _gradient(eqn: core.JaxprEqn, operands: Sequence, read: set[core.Var]) -> list:
    loss, wrt = eqn.params["jaxpr"], eqn.params["wrt"]
    stopped = [lax.stop_gradient(x) if i in wrt else x for i, x in enumerate(operands)]
    results = list(grad_p.bind(*stopped, **eqn.params))
    outputs = len(loss.out_avals)
    if any(var in read and is_float(var.aval) for var in eqn.outvars[:outputs]):
        results[:outputs] = jaxpr_as_fun(loss)(*operands)
    return results


def _read(jaxpr: core.Jaxpr) -> set[core.Var]:
    """The variables that equations of the jaxpr read, and its results."""
    atoms = [*jaxpr.outvars, *(atom for eqn in jaxpr.eqns for atom in eqn.invars)]
    return {atom for atom in atoms if isinstance(atom, core.Var)}


def _looked_into(jaxpr: core.Jaxpr):
    def into(eqn: core.JaxprEqn) -> bool:
        called = call(eqn)
        return called is not None and not called.has_rule

    return equations(jaxpr, into)
