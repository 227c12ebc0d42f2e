"""Values that are constants of differentiation, at every order.

Enzyme honours `enzyme.ignore_derivatives` when it differentiates a function, and removes it; a second differentiation of the result would go straight through.
So each one comes with a mark that Enzyme knows nothing of and therefore leaves in place:

    %i = "enzyme.ignore_derivatives"(%x)
    %h = stablehlo.custom_call @metagrad.held(%i)

Between two orders `renew` puts the op back in front of every mark, and when all is differentiated `erase` takes the marks away.

The exact lowerings (frontend/exact_lowerings.py) attach derivatives to values as `a - (held(d) - d)`, a zero with a derivative.  `erase` makes that `a` again.
"""

from __future__ import annotations

from jaxlib.mlir import ir
from jaxlib.mlir.dialects import func
from jaxlib.mlir.dialects import stablehlo as hlo

from metagrad.compiler import functions

IGNORE = "enzyme.ignore_derivatives"
MARK = "metagrad.held"


def hold(value: ir.Value) -> ir.Value:
    """The value as a constant of differentiation, at the current insertion point."""
    return mark(_ignore(value))


def mark(value: ir.Value) -> ir.Value:
    return ir.Operation.create(
        "stablehlo.custom_call",
        results=[value.type],
        operands=[value],
        attributes={"call_target_name": ir.StringAttr.get(MARK)},
    ).result


def renew(module: ir.Module) -> None:
    """Puts `enzyme.ignore_derivatives` in front of every mark."""
    for op in _marks(module):
        with ir.InsertionPoint(op), op.location:
            op.operands[0] = _ignore(op.operands[0])


def erase(module: ir.Module) -> None:
    """Replaces `a - (held(d) - d)` by `a`, and what is still held by the value itself."""
    for op in _marks(module):
        source = _without_ignore(op.operands[0])
        for difference in [use.owner for use in op.results[0].uses]:
            if not _is(difference, "stablehlo.subtract") or difference.operands[0] != op.results[0]:
                continue
            if _without_ignore(difference.operands[1]) == source:
                for whole in [use.owner for use in difference.results[0].uses]:
                    if _is(whole, "stablehlo.subtract") and whole.operands[1] == difference.results[0]:
                        whole.results[0].replace_all_uses_with(whole.operands[0])
    for op in _ops(module):
        if _is_mark(op) or op.operation.name == IGNORE:
            op.results[0].replace_all_uses_with(op.operands[0])
            op.operation.erase()


def _ignore(value: ir.Value) -> ir.Value:
    return ir.Operation.create(IGNORE, results=[value.type], operands=[value]).result


def _without_ignore(value: ir.Value) -> ir.Value:
    """In a function that nobody differentiated the op is still there."""
    while _is(value.owner, IGNORE):
        value = value.owner.operands[0]
    return value


def _is(owner, name: str) -> bool:
    return not isinstance(owner, ir.Block) and owner.operation.name == name


def _is_mark(op: ir.OpView) -> bool:
    return isinstance(op, hlo.CustomCallOp) and op.call_target_name.value == MARK


def _marks(module: ir.Module) -> list[ir.OpView]:
    return [op for op in _ops(module) if _is_mark(op)]


def _ops(module: ir.Module) -> list[ir.OpView]:
    return [
        op
        for function in module.body.operations
        if isinstance(function, func.FuncOp)
        for op in functions.walk(functions.body(function))
    ]
