"""Values that are constants of differentiation, at every order.

Enzyme honours `enzyme.ignore_derivatives` when it differentiates a function, and removes it; a
second differentiation of the result would go straight through. So each one comes with a mark that
Enzyme knows nothing of and therefore leaves in place:

    %i = "enzyme.ignore_derivatives"(%x)
    %s = stablehlo.custom_call @metagrad.stopped(%i)

Between two orders `ignore_marked_again` puts the op back in front of every mark, and when all is
differentiated `remove_marks` takes the marks away.

A second mark, @metagrad.anchored, is for zeros that carry a derivative, `anchored(d) - d`
(frontend/exact_lowerings/value_and_derivative.py). Before it takes the marks away `remove_marks`
takes these zeros out of the program (known_zeros.py).
"""

from __future__ import annotations

from jaxlib.mlir import ir
from jaxlib.mlir.dialects import func

from metagrad.compiler.dialect import functions, known_zeros
from metagrad.compiler.dialect.enzyme import IGNORE_DERIVATIVES, ignore_derivatives
from metagrad.compiler.dialect.matching import splat
from metagrad.compiler.dialect.metagrad import ANCHORED, STOPPED


def mark_stopped(value: ir.Value) -> ir.Value:
    """The value as a constant of differentiation, at the current insertion point."""
    return _mark(ignore_derivatives(value), STOPPED)


def mark_anchored(value: ir.Value) -> ir.Value:
    """The same, for a value whose difference to the original is zero and carries a derivative."""
    return _mark(ignore_derivatives(value), ANCHORED)


def _mark(value: ir.Value, target: str) -> ir.Value:
    return ir.Operation.create(
        "stablehlo.custom_call",
        results=[value.type],
        operands=[value],
        attributes={"call_target_name": ir.StringAttr.get(target)},
    ).result


def ignore_marked_again(module: ir.Module) -> None:
    """Puts `enzyme.ignore_derivatives` in front of every mark, for the next order."""
    for op in functions.operations(module, functions.CUSTOM_CALL.__eq__):
        if _is_mark(op):
            with ir.InsertionPoint(op), op.location:
                op.operands[0] = ignore_derivatives(op.operands[0])


def remove_marks(module: ir.Module) -> None:
    """Takes out the zeros that carried a derivative, and replaces every mark by its value."""
    for op in functions.operations(module, IGNORE_DERIVATIVES.__eq__):
        op.results[0].replace_all_uses_with(op.operands[0])
        op.erase()
    for function in module.body.operations:
        if isinstance(function, func.FuncOp):
            known_zeros.remove(function, _is_zero)
    for op in functions.operations(module, functions.CUSTOM_CALL.__eq__):
        if _is_mark(op):
            op.results[0].replace_all_uses_with(op.operands[0])
            op.erase()


def _is_zero(op: ir.Operation) -> bool:
    """Whether the op is `anchored(d) - d` or `d - anchored(d)`.

    A simplifier makes `anchored(0)` of these for the constant zero; that counts too.
    """
    if op.name != "stablehlo.subtract":
        return _is_mark(op, ANCHORED) and splat(op.operands[0]) == 0
    left, right = op.operands
    return _is_anchor_of(left, right) or _is_anchor_of(right, left)


def _is_anchor_of(value: ir.Value, other: ir.Value) -> bool:
    owner = value.owner
    return (
        not isinstance(owner, ir.Block)
        and _is_mark(owner.operation, ANCHORED)
        and owner.operands[0] == other
    )


def _is_mark(op: ir.Operation, *targets: str) -> bool:
    return op.name == functions.CUSTOM_CALL and op.attributes["call_target_name"].value in (
        targets or (STOPPED, ANCHORED)
    )
