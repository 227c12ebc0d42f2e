"""The equations of a run that stand between what `wrt` names and the outer value.

Two things tell this from activity.py, which says where there is a cotangent. The way goes through a
stop_gradient as through the identity, since one stop may stand behind another. And inner gradients
are expanded first: the stops of a loss belong to the inner gradient, and are on the way only where
the gradient itself depends on what is stopped. A custom rule that the inner gradient used up is
plain code then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

from jax.extend import core
from jax.extend.core import primitives

from metagrad.compiler.dialect.metagrad import Layout
from metagrad.frontend.capabilities import WITHOUT_DERIVATIVE
from metagrad.frontend.dtypes import is_complex, is_float
from metagrad.frontend.jaxprs.calls import Body, call
from metagrad.frontend.jaxprs.expand_gradients import expand_gradients

Kind: TypeAlias = Callable[[Sequence, Sequence[bool]], set[core.Var]] | None


class Passed(NamedTuple):
    """An equation on the way.

    Attributes:
      eqn: the equation.
      enclosing: those that call the function that it is in, from the outermost on.
      is_decided: whether its first operand depends on what moves. A select and a branch take that
        for a choice.
    """

    eqn: core.JaxprEqn
    enclosing: tuple[core.JaxprEqn, ...]
    is_decided: bool


def on_the_way(
    step: core.ClosedJaxpr, outer: core.ClosedJaxpr, layout: Layout, wrt: Sequence[str]
) -> Iterator[Passed]:
    """The equations between what `wrt` names and the outer value, in called functions too.

    Args:
      step, outer: the traced functions over flat leaves.
    """
    step, outer = expand_gradients(step), expand_gradients(outer)
    differentiated = set(layout.differentiated(wrt))
    operands = step.in_avals[: layout.step]
    active = [i in differentiated and is_float(aval) for i, aval in enumerate(operands)]
    carry = [(i, i) for i in range(layout.state)]
    run = Body(step, range(layout.step), range(len(step.out_avals)), carry)
    touched = _active_inputs(run, active, _any)
    active = _active_inputs(run, active)
    value = [True, *(False for _ in outer.out_avals[1:])]
    read = _read_inputs(outer.jaxpr, value)[: layout.state]
    wanted = _wanted_results(run, [*read, *(False for _ in step.out_avals[layout.state :])])
    yield from _between(step.jaxpr, active, touched, wanted, ())
    others = [False for _ in outer.in_avals[layout.state :]]
    of_outer, touched = ([*flags[: layout.state], *others] for flags in (active, touched))
    yield from _between(outer.jaxpr, of_outer, touched, value, ())


def _between(
    jaxpr: core.Jaxpr,
    active: Sequence[bool],
    touched: Sequence[bool],
    wanted: Sequence[bool],
    enclosing: tuple[core.JaxprEqn, ...],
) -> Iterator[Passed]:
    """The equations between the inputs `active` and the results `wanted`, in called bodies too.

    Args:
      touched: the inputs whose value depends on what moves, with a derivative or without.
    """
    moving, read = _moving(jaxpr, active), _read(jaxpr, wanted)
    depending = _moving(jaxpr, touched, _any)
    for eqn in jaxpr.eqns:
        inputs, results = _flags(eqn.invars, moving), _flags(eqn.outvars, read)
        if not any(inputs) or not any(results):
            continue
        of_values = _flags(eqn.invars, depending)
        yield Passed(eqn, enclosing, of_values[0])
        called = call(eqn)
        if called is None or called.has_rule:
            continue
        for body in called.bodies:
            yield from _between(
                body.jaxpr.jaxpr,
                _active_inputs(body, inputs),
                _active_inputs(body, of_values, _any),
                _wanted_results(body, results),
                (*enclosing, eqn),
            )


def _moving(jaxpr: core.Jaxpr, active: Sequence[bool], kind: Kind = None) -> set[core.Var]:
    """The variables that move with the inputs `active`: of one kind, by default those that carry a
    derivative.
    """
    kind = kind or _differentiable
    moving = kind(jaxpr.invars, active)
    for eqn in jaxpr.eqns:
        inputs = _flags(eqn.invars, moving)
        if any(inputs) and (kind is _any or eqn.primitive not in WITHOUT_DERIVATIVE):
            moving |= kind(eqn.outvars, _results(eqn, inputs, kind))
    return moving


def _results(eqn: core.JaxprEqn, inputs: list[bool], kind: Kind) -> list[bool]:
    called = call(eqn)
    is_decided = kind is _any and eqn.primitive is primitives.cond_p and inputs[0]
    results = [called is None or called.has_rule or is_decided] * len(eqn.outvars)
    for body in () if called is None or called.has_rule else called.bodies:
        moving = _moving(body.jaxpr.jaxpr, _active_inputs(body, inputs, kind), kind)
        for i, flag in zip(body.results, _flags(body.jaxpr.jaxpr.outvars, moving)):
            results[i] |= flag
    return results


def _active_inputs(body: Body, inputs: Sequence[bool], kind: Kind = None) -> list[bool]:
    """Which inputs of a body move, in one turn of a loop or a later one."""
    jaxpr = body.jaxpr.jaxpr
    active = [inputs[i] for i in body.operands]
    while True:
        outputs = _flags(jaxpr.outvars, _moving(jaxpr, active, kind)) if body.carry else []
        grown = list(active)
        for output, into in body.carry:
            grown[into] |= outputs[output]
        if grown == active:
            return active
        active = grown


def _read(jaxpr: core.Jaxpr, wanted: Sequence[bool]) -> set[core.Var]:
    """The variables on which the results `wanted` depend."""
    read = _differentiable(jaxpr.outvars, wanted)
    for eqn in reversed(jaxpr.eqns):
        results = _flags(eqn.outvars, read)
        if any(results) and eqn.primitive not in WITHOUT_DERIVATIVE:
            read |= _differentiable(eqn.invars, _operands(eqn, results))
    return read


def _read_inputs(jaxpr: core.Jaxpr, wanted: Sequence[bool]) -> list[bool]:
    return _flags(jaxpr.invars, _read(jaxpr, wanted))


def _operands(eqn: core.JaxprEqn, results: list[bool]) -> list[bool]:
    called = call(eqn)
    operands = [called is None or called.has_rule] * len(eqn.invars)
    for body in () if called is None or called.has_rule else called.bodies:
        read = _read_inputs(body.jaxpr.jaxpr, _wanted_results(body, results))
        for i, flag in zip(body.operands, read):
            operands[i] |= flag
    return operands


def _wanted_results(body: Body, results: Sequence[bool]) -> list[bool]:
    """Which results of a body are read, by the caller or by a later turn of a loop."""
    wanted = [results[i] for i in body.results]
    while body.results:
        read = _read_inputs(body.jaxpr.jaxpr, wanted) if body.carry else []
        grown = list(wanted)
        for output, into in body.carry:
            grown[output] |= read[into]
        if grown == wanted:
            break
        wanted = grown
    return wanted


def _flags(atoms: Sequence, variables: set[core.Var]) -> list[bool]:
    return [isinstance(atom, core.Var) and atom in variables for atom in atoms]


def _any(atoms: Sequence, flags: Sequence[bool]) -> set[core.Var]:
    return {atom for atom, flag in zip(atoms, flags) if flag and isinstance(atom, core.Var)}


def _differentiable(atoms: Sequence, flags: Sequence[bool]) -> set[core.Var]:
    return {
        atom
        for atom, flag in zip(atoms, flags)
        if flag and isinstance(atom, core.Var) and (is_float(atom.aval) or is_complex(atom.aval))
    }
