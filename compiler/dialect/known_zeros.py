"""Takes known zeros out of a function, also where what they meet is not finite.

    x + 0, x - 0  ->  x          0 * x, 0 / x, -0, reshapes of 0  ->  0

The exact lowerings add zeros to values for the sake of their derivatives; by the rules of floating
point 0 * inf would be NaN, and -0.0 + 0.0 another number. Differentiation leaves products with such
zeros behind, of derivatives that belong to nothing.

Cost: one walk over the function's ops, in their order.
"""

from __future__ import annotations

from collections.abc import Callable

from jaxlib.mlir import ir
from jaxlib.mlir.dialects import func
from jaxlib.mlir.dialects import stablehlo as hlo

from metagrad.compiler.dialect import functions

_STAYS_ZERO = {
    f"stablehlo.{name}"
    for name in "add subtract negate convert reshape broadcast_in_dim transpose slice reverse real".split()
}
_PRODUCTS = {"stablehlo.multiply", "stablehlo.dot_general", "stablehlo.convolution"}


def run(function: func.FuncOp, is_zero: Callable[[ir.Operation], bool]) -> None:
    """Simplifies what depends on the results of the ops that `is_zero` names, in place."""
    zero: dict[ir.Value, ir.Operation] = {}
    replaced: list[ir.Operation] = []
    for op in functions.operations(function):
        known = [operand in zero for operand in op.operands] if zero else []
        if is_zero(op) or (any(known) and _gives_zero(op.name, known)):
            zero[op.results[0]] = op
        elif any(known) and (rest := _without_zero(op, known)) is not None:
            op.results[0].replace_all_uses_with(rest)
            replaced.append(op)
    for op in reversed(replaced):
        op.erase()
    for value, op in reversed(zero.items()):
        # Whoever still reads it gets the number.
        if any(True for _ in value.uses):
            with ir.InsertionPoint(op), op.location:
                value.replace_all_uses_with(_constant(value.type))
        op.erase()


def _gives_zero(name: str, known: list[bool]) -> bool:
    if name in _PRODUCTS:
        return any(known)
    if name == "stablehlo.divide":
        return known[0]
    if name == "stablehlo.select":
        return known[1] and known[2]
    return name in _STAYS_ZERO and all(known)


def _without_zero(op: ir.Operation, known: list[bool]) -> ir.Value | None:
    """What a sum or a difference is without its operand that is zero."""
    if op.name == "stablehlo.add":
        return op.operands[known.index(False)]
    if op.name == "stablehlo.subtract":
        if known[1]:
            return op.operands[0]
        with ir.InsertionPoint(op), op.location:
            return hlo.negate(op.operands[1])
    return None


def _constant(ty: ir.Type) -> ir.Value:
    return hlo.constant(
        ir.DenseElementsAttr.get_splat(
            ty, ir.FloatAttr.get(ir.RankedTensorType(ty).element_type, 0.0)
        )
    )
