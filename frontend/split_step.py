"""The inner gradients of a traced step: where they are, and the step with them cut out, as jaxprs.

    update_of     (state, meta, batch, results of the gradients)   -> what the step returns
    inputs_of(i)  (state, meta, batch, results of those before i)  -> what gradient i is called on

Here the step is cut; the module that the compiler gets holds these pieces (emit_mlir.py).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
from jax.extend import core
from jax.extend.core import Primitive
from jax.interpreters import partial_eval as pe

from metagrad.frontend.grad_primitive import grad_p
from metagrad.frontend.jaxprs.calls import plain
from metagrad.frontend.jaxprs.interpret import equations, interpret
from metagrad.runtime import jax_internals

site_p = jax_internals.keep_when_lowered(Primitive("metagrad_site"))
site_p.multiple_results = True


@site_p.def_abstract_eval
def _abstract(*avals, index, jaxpr, wrt, label):
    return [*jaxpr.out_avals, *(avals[i].update(weak_type=False) for i in wrt)]


@dataclasses.dataclass(frozen=True)
class Site:
    """One call of `metagrad.grad` in the step's own code.

    Attributes:
      index: position in the step.
      loss: the loss as a jaxpr: operands -> [value, *aux].
      wrt: which operands are differentiated.
      label: name and line of the user's function.
      kept: which of the results (value, aux, gradients) the step reads.
    """

    index: int
    loss: core.ClosedJaxpr
    wrt: tuple[int, ...]
    label: str
    kept: tuple[int, ...]

    @property
    def parameters(self) -> dict:
        """The parameters of `site_p`, to bind it again."""
        return {"index": self.index, "jaxpr": self.loss, "wrt": self.wrt, "label": self.label}

    @property
    def results(self) -> list[jax.core.ShapedArray]:
        return [*self.loss.out_avals, *(self.loss.in_avals[i] for i in self.wrt)]


def mark_gradients(step: core.ClosedJaxpr) -> tuple[core.ClosedJaxpr, list[Site]]:
    """Finds and marks the gradients at the top level of the step, looking through `jit`.

    Drops what the step's results do not need.

    A gradient inside a loop or a branch is not marked: the rules in grad_primitive.py keep it whole
    there.
    """
    count = 0

    def rule(eqn, operands):
        nonlocal count
        if eqn.primitive is grad_p:
            count += 1
            results = site_p.bind(*operands, index=count - 1, **eqn.params)
            return _handed_through(eqn.params["jaxpr"].jaxpr, operands, results)
        called = plain(eqn)
        if called is not None and _holds_gradient(called.jaxpr):
            return interpret(called, operands, rule)
        return None

    if not _holds_gradient(step.jaxpr):
        return step, []
    marked = jax.make_jaxpr(lambda *args: interpret(step, args, rule))(*step.in_avals)
    jaxpr, _ = pe.dce_jaxpr(marked.jaxpr, [True] * len(marked.out_avals), instantiate=True)
    marked = core.ClosedJaxpr(jaxpr, marked.consts)
    # Dead gradients are gone; number the others again.
    sites: list[Site] = []
    read = {atom for eqn in jaxpr.eqns for atom in eqn.invars if isinstance(atom, core.Var)}
    read |= {atom for atom in jaxpr.outvars if isinstance(atom, core.Var)}
    for eqn in jaxpr.eqns:
        if eqn.primitive is site_p:
            kept = tuple(i for i, var in enumerate(eqn.outvars) if var in read)
            sites.append(
                Site(len(sites), eqn.params["jaxpr"], eqn.params["wrt"], eqn.params["label"], kept)
            )
            eqn.params["index"] = len(sites) - 1
    return marked, sites


def _handed_through(loss: core.Jaxpr, operands: Sequence, results: Sequence) -> list:
    """The results of a gradient, with operands in place of auxiliary results that are operands.

    The gradient's results are kept for its VJP; what the step has anyway need not be.
    """
    operand_of = dict(zip(loss.invars, operands))
    aux = [
        operand_of.get(var, result) if isinstance(var, core.Var) else result
        for var, result in zip(loss.outvars[1:], results[1:])
    ]
    return [results[0], *aux, *results[1 + len(aux) :]]


def update_of(step: core.ClosedJaxpr, sites: Sequence[Site]) -> core.ClosedJaxpr:
    """The step with the gradients' results as further operands."""
    return _without_gradients(step, sites, len(sites))


def inputs_of(step: core.ClosedJaxpr, sites: Sequence[Site], index: int) -> core.ClosedJaxpr:
    """What gradient `index` is called on.

    (step's operands, results of the gradients before it) -> operands of its loss.
    """
    return _without_gradients(step, sites, index)


def first_results(function: core.ClosedJaxpr, count: int) -> core.ClosedJaxpr:
    """The function without its results from `count` on, and without what only they need.

    Auxiliary results get no cotangent.
    """
    wanted = [i < count for i in range(len(function.out_avals))]
    jaxpr, _ = pe.dce_jaxpr(function.jaxpr, wanted, instantiate=True)
    return core.ClosedJaxpr(jaxpr, function.consts)


def _without_gradients(step, sites, count) -> core.ClosedJaxpr:
    """(step's operands, results of the first `count` gradients) -> what comes next.

    That is the operands of the next gradient, or the step's results.

    Equations are taken as they are: tracing them again for each gradient would make the time
    quadratic in the number of gradients.
    """
    jaxpr = step.jaxpr
    eqns, of_sites, outvars = [], [], jaxpr.outvars
    for eqn in jaxpr.eqns:
        if eqn.primitive is not site_p:
            eqns.append(eqn)
        elif eqn.params["index"] == count:
            outvars = eqn.invars
            break
        else:
            of_sites += [eqn.outvars[i] for i in sites[eqn.params["index"]].kept]
    part = jaxpr.replace(
        invars=[*jaxpr.invars, *of_sites],
        outvars=list(outvars),
        eqns=eqns,
        debug_info=jaxpr.debug_info.with_unknown_names(),
    )
    part, _ = pe.dce_jaxpr(part, [True] * len(outvars), instantiate=True)
    return core.ClosedJaxpr(part, step.consts)


def _holds_gradient(jaxpr: core.Jaxpr) -> bool:
    """Whether a gradient is reachable through plain calls alone."""
    inside = equations(jaxpr, into=lambda eqn: plain(eqn) is not None)
    return any(eqn.primitive is grad_p for eqn in inside)
