"""How a jaxpr is walked and how it is evaluated.

There is one function for each; rewrites and analyses give it their rule.

equations(jaxpr)                 every equation, those inside loops, branches and calls too
interpret(closed, args, rule)    the results, each equation evaluated by `rule`
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from jax.extend import core, source_info_util

from metagrad.frontend.jaxprs.calls import inside


def equations(
    jaxpr: core.Jaxpr, into: Callable[[core.JaxprEqn], bool] = lambda eqn: True
) -> Iterator[core.JaxprEqn]:
    """All equations, an outer one before what is in it. `into` says which are looked into."""
    for eqn in jaxpr.eqns:
        yield eqn
        if into(eqn):
            for inner in inside(eqn):
                yield from equations(inner, into)


def interpret(
    closed: core.ClosedJaxpr,
    args: Sequence[Any],
    rule: Callable[[core.JaxprEqn, list], Sequence[Any] | None],
    constant: Callable[[Any], Any] = lambda value: value,
) -> list:
    """Evaluates a closed jaxpr, each equation with the user's source line.

    Args:
      args: one value for each input; of any kind that `rule` understands.
      rule: (equation, operands) -> results, or None for what the equation itself does.
      constant: makes such a value of a constant of the jaxpr.
    """
    jaxpr = closed.jaxpr
    env = dict(zip(jaxpr.constvars, map(constant, closed.consts))) | dict(zip(jaxpr.invars, args))

    def read(atom):
        return constant(atom.val) if isinstance(atom, core.Literal) else env[atom]

    for eqn in jaxpr.eqns:
        operands = [read(atom) for atom in eqn.invars]
        with users_line(eqn):
            results = rule(eqn, operands)
            if results is None:
                results = bind(eqn, operands)
        env.update(zip(eqn.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


@contextlib.contextmanager
def users_line(eqn: core.JaxprEqn) -> Iterator[None]:
    """Keeps the user's source line, for errors and for MLIR locations."""
    name_stack = source_info_util.current_name_stack() + eqn.source_info.name_stack
    with (
        source_info_util.user_context(eqn.source_info.traceback, name_stack=name_stack),
        eqn.ctx.manager,
    ):
        yield


def bind(eqn: core.JaxprEqn, operands: Sequence[Any]) -> list:
    """The equation's own meaning."""
    results = eqn.primitive.bind(*operands, **eqn.primitive.get_bind_params(eqn.params))
    return results if eqn.primitive.multiple_results else [results]
