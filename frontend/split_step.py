"""The inner gradients of a traced step: where they are, and the step with them cut out, as jaxprs.

    update_of       (state, meta, batch, results of the gradients)     -> what the step returns
    inputs_of(i)    (state, meta, batch, results of those before i)    -> what gradient i is called on

Here the step is cut; the module that the compiler gets holds these pieces (emit_mlir.py).
"""

from __future__ import annotations

import contextlib
import dataclasses

import jax
from jax.extend import core, source_info_util
from jax.extend.core import Primitive
from jax.interpreters import partial_eval as pe

from metagrad.frontend.grad_primitive import grad_p

_INLINED = {"jit", "pjit", "closed_call", "core_call"}

site_p = Primitive("metagrad_site")
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
        """Of `site_p`, to bind it anew."""
        return {"index": self.index, "jaxpr": self.loss, "wrt": self.wrt, "label": self.label}

    @property
    def results(self) -> list[jax.core.ShapedArray]:
        return [*self.loss.out_avals, *(self.loss.in_avals[i] for i in self.wrt)]


def mark(step: core.ClosedJaxpr) -> tuple[core.ClosedJaxpr, list[Site]]:
    """Finds the gradients at the top level of the step, looking through `jit`, and drops what the step's results do not need.

    A gradient inside a loop or a branch is not marked: the rules in grad_primitive.py keep it whole there.
    """
    count = 0

    def evaluate(jaxpr: core.Jaxpr, consts, args):
        nonlocal count
        env = dict(zip(jaxpr.constvars, consts)) | dict(zip(jaxpr.invars, args))
        read = lambda atom: atom.val if isinstance(atom, core.Literal) else env[atom]
        for eqn in jaxpr.eqns:
            operands = [read(atom) for atom in eqn.invars]
            with where(eqn):
                if eqn.primitive is grad_p:
                    results = site_p.bind(*operands, index=count, **eqn.params)
                    count += 1
                elif eqn.primitive.name in _INLINED and _holds_gradient(_called(eqn)):
                    called = _called(eqn)
                    results = evaluate(called.jaxpr, called.consts, operands)
                else:
                    results = bind(eqn, operands)
            env.update(zip(eqn.outvars, results))
        return [read(atom) for atom in jaxpr.outvars]

    if not _holds_gradient(step):
        return step, []
    marked = jax.make_jaxpr(lambda *args: evaluate(step.jaxpr, step.consts, args))(*step.in_avals)
    jaxpr, _ = pe.dce_jaxpr(marked.jaxpr, [True] * len(marked.out_avals), instantiate=True)
    marked = core.ClosedJaxpr(jaxpr, marked.consts)
    # Dead gradients are gone; number the others anew.
    sites = []
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


def update_of(step: core.ClosedJaxpr, sites: list[Site]) -> core.ClosedJaxpr:
    """The step with the gradients' results as further operands."""
    return _without_gradients(step, sites, len(sites))


def inputs_of(step: core.ClosedJaxpr, sites: list[Site], index: int) -> core.ClosedJaxpr:
    """What gradient `index` is called on: (step's operands, results of the gradients before it) -> operands of its loss."""
    return _without_gradients(step, sites, index)


def first_results(function: core.ClosedJaxpr, count: int) -> core.ClosedJaxpr:
    """The function without its results from `count` on, and without what only they need. Auxiliary results get no cotangent."""
    wanted = [i < count for i in range(len(function.out_avals))]
    jaxpr, _ = pe.dce_jaxpr(function.jaxpr, wanted, instantiate=True)
    return core.ClosedJaxpr(jaxpr, function.consts)


def _without_gradients(step, sites, count) -> core.ClosedJaxpr:
    given = [site.results[i] for site in sites[:count] for i in site.kept]

    def run(*args):
        operands, inner = args[: len(step.in_avals)], list(args[len(step.in_avals) :])
        env = dict(zip(step.jaxpr.constvars, step.consts)) | dict(zip(step.jaxpr.invars, operands))
        read = lambda atom: atom.val if isinstance(atom, core.Literal) else env[atom]
        for eqn in step.jaxpr.eqns:
            if eqn.primitive is site_p:
                index = eqn.params["index"]
                if index == count:
                    return [read(atom) for atom in eqn.invars]
                for i in sites[index].kept:
                    env[eqn.outvars[i]] = inner.pop(0)
                continue
            with where(eqn):
                results = bind(eqn, [read(atom) for atom in eqn.invars])
            env.update(zip(eqn.outvars, results))
        return [read(atom) for atom in step.jaxpr.outvars]

    closed = jax.make_jaxpr(run)(*step.in_avals, *given)
    jaxpr, _ = pe.dce_jaxpr(closed.jaxpr, [True] * len(closed.out_avals), instantiate=True)
    return core.ClosedJaxpr(jaxpr, closed.consts)


@contextlib.contextmanager
def where(eqn):
    """Keeps the user's source line, for errors and for MLIR locations."""
    name_stack = source_info_util.current_name_stack() + eqn.source_info.name_stack
    with (
        source_info_util.user_context(eqn.source_info.traceback, name_stack=name_stack),
        eqn.ctx.manager,
    ):
        yield


def bind(eqn, operands) -> list:
    results = eqn.primitive.bind(*operands, **eqn.primitive.get_bind_params(eqn.params))
    return results if eqn.primitive.multiple_results else [results]


def _called(eqn) -> core.ClosedJaxpr:
    called = eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))
    return called if isinstance(called, core.ClosedJaxpr) else core.ClosedJaxpr(called, ())


def _holds_gradient(closed: core.ClosedJaxpr) -> bool:
    """Whether a gradient is reachable through calls alone."""
    return any(
        eqn.primitive is grad_p
        or (eqn.primitive.name in _INLINED and _holds_gradient(_called(eqn)))
        for eqn in closed.jaxpr.eqns
    )
