"""What a call is.

For each primitive that holds functions: which they are, and how operands and results map to theirs.

One table for everything that walks a jaxpr, in the manner of JAX's `dce_rules`. JAX's names for the
parameters, and what they are in each of its versions, are here and nowhere else.

    jit, closed_call, core_call    a call and nothing more: its equations may stand in its place
    remat                          a call that says what is computed again
    cond                           one body for each branch; the first operand chooses
    scan, while                    a carry: outputs of the body that are inputs of its next turn
    custom_jvp, custom_vjp         a body whose derivative is not the function's: that is the rule's
    call_hi_primitive              a rule, and a body that is not a jaxpr (hi_primitives.py)

An equation of any other primitive may hold functions too (`custom_linear_solve`): `inside` gives
them, and nothing is known of their operands.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from jax.extend import core
from jax.extend.core import primitives


@dataclasses.dataclass(frozen=True)
class Body:
    """One function of a call.

    Attributes:
      jaxpr: the function.
      operands: for each of its inputs, the operand of the equation that it gets.
      results: for each of its outputs, the result of the equation that it is; empty for a loop's
        condition.
      carry: pairs (output, input): what comes out of one turn of a loop and goes into the next.
      read_by_row, written_by_row: inputs and outputs of a loop's body of which each turn has one
        row, the same one of all of them.
    """

    jaxpr: core.ClosedJaxpr
    operands: Sequence[int]
    results: Sequence[int]
    carry: Sequence[tuple[int, int]] = ()
    read_by_row: Sequence[int] = ()
    written_by_row: Sequence[int] = ()


@dataclasses.dataclass(frozen=True)
class Call:
    """An equation that calls functions.

    Attributes:
      bodies: the functions.
      has_rule: whether a derivative goes through a rule of its own, and not through the bodies.
      straight: the body, if there is one that takes all operands, gives all results and has the
        call's derivative.
      is_plain: whether its equations may stand in the call's place.
    """

    bodies: tuple[Body, ...]
    has_rule: bool = False
    straight: core.ClosedJaxpr | None = None
    is_plain: bool = False


def call(eqn: core.JaxprEqn) -> Call | None:
    """The functions that an equation calls; None if it is not a call of the table."""
    of = _CALLS.get(eqn.primitive.name)
    return None if of is None else of(eqn)


def inside(eqn: core.JaxprEqn) -> list[core.Jaxpr]:
    """All functions in an equation's parameters, whether it is in the table or not."""
    return list(core.jaxprs_in_params(eqn.params))


def map_functions(params: dict, rewrite: Callable[[core.ClosedJaxpr], core.ClosedJaxpr]) -> dict:
    """An equation's parameters with `rewrite` of each function in them.

    The same dict if that changes none.
    """

    def mapped(value):
        if isinstance(value, core.ClosedJaxpr):
            return rewrite(value)
        if isinstance(value, core.Jaxpr):
            closed = core.ClosedJaxpr(value, ())
            new = rewrite(closed)
            return value if new is closed else new.jaxpr
        if isinstance(value, (tuple, list)) and any(map(_is_function, value)):
            # A named tuple has a constructor of its own.
            return getattr(value, "_make", type(value))(map(mapped, value))
        return value

    new = {name: mapped(value) for name, value in params.items()}
    unchanged = all(_same(new[name], value) for name, value in params.items())
    return params if unchanged else new


def _is_function(value: Any) -> bool:
    return isinstance(value, (core.Jaxpr, core.ClosedJaxpr))


def _same(new: Any, old: Any) -> bool:
    if isinstance(old, (tuple, list)) and any(map(_is_function, old)):
        return all(map(_same, new, old))
    return new is old


def plain(eqn: core.JaxprEqn) -> core.ClosedJaxpr | None:
    """The function that an equation calls, if its equations may stand in the call's place; else
    None.
    """
    called = call(eqn)
    return called.straight if called and called.is_plain else None


def _straight(parameter: str, is_plain: bool = False) -> Callable[[core.JaxprEqn], Call]:
    def of(eqn):
        body = _whole(eqn, parameter)
        return Call((body,), straight=body.jaxpr, is_plain=is_plain)

    return of


def _with_rule(eqn: core.JaxprEqn) -> Call:
    return Call((_whole(eqn, "call_jaxpr"),), has_rule=True)


def _rule_alone(eqn: core.JaxprEqn) -> Call:
    return Call((), has_rule=True)


def _whole(eqn: core.JaxprEqn, parameter: str) -> Body:
    jaxpr = eqn.params[parameter]
    closed = jaxpr if isinstance(jaxpr, core.ClosedJaxpr) else core.ClosedJaxpr(jaxpr, ())
    return Body(closed, range(len(eqn.invars)), range(len(eqn.outvars)))


def _cond(eqn: core.JaxprEqn) -> Call:
    operands, results = range(1, len(eqn.invars)), range(len(eqn.outvars))
    return Call(tuple(Body(branch, operands, results) for branch in eqn.params["branches"]))


def _scan(eqn: core.JaxprEqn) -> Call:
    consts, carried = _scan_groups(eqn.params)
    carry = [(i, consts + i) for i in range(carried)]
    operands, results = range(len(eqn.invars)), range(len(eqn.outvars))
    read, written = operands[consts + carried :], results[carried:]
    return Call((Body(eqn.params["jaxpr"], operands, results, carry, read, written),))


def _scan_groups(params: dict) -> tuple[int, int]:
    """How many operands of a scan are constants, and how many are carried."""
    if "ft_in" in params:  # from 0.11 on: the operands as a tree of three
        consts, carry, _ = params["ft_in"].unpack()
        return len(consts), len(carry)
    return params["num_consts"], params["num_carry"]


def _while(eqn: core.JaxprEqn) -> Call:
    tested, constants = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
    first, results = tested + constants, range(len(eqn.outvars))
    carried = range(first, len(eqn.invars))
    carry = [(i, constants + i) for i in results]
    test = Body(eqn.params["cond_jaxpr"], [*range(tested), *carried], ())
    body = Body(eqn.params["body_jaxpr"], [*range(tested, first), *carried], results, carry)
    return Call((test, body))


_CALLS: dict[str, Callable[[core.JaxprEqn], Call]] = {
    primitives.jit_p.name: _straight("jaxpr", is_plain=True),
    "closed_call": _straight("call_jaxpr", is_plain=True),
    "eval_jaxpr": _straight("call_jaxpr", is_plain=True),  # closed_call, from 0.12 on
    "core_call": _straight("call_jaxpr", is_plain=True),
    primitives.remat_p.name: _straight("jaxpr"),
    primitives.custom_jvp_call_p.name: _with_rule,
    primitives.custom_vjp_call_p.name: _with_rule,
    "custom_jvp_call_jaxpr": _rule_alone,
    "call_hi_primitive": _rule_alone,
    "metagrad_hi_call": _rule_alone,
    primitives.cond_p.name: _cond,
    primitives.scan_p.name: _scan,
    primitives.while_p.name: _while,
}
"""By name, since no JAX has all of them."""
