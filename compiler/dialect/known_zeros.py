"""Finds the results of a function that are zero, and takes known zeros out of a function, also
where what they meet is not finite.

    x + 0, x - 0  ->  x          0 * x, 0 / x, -0, reshapes of 0  ->  0

The exact lowerings add zeros to values for the sake of their derivatives; by the rules of floating
point 0 * inf would be NaN, and -0.0 + 0.0 another number. Differentiation leaves products with such
zeros behind.

Cost: one walk over the function's ops, in their order.
"""

from __future__ import annotations

from collections.abc import Callable

from jaxlib.mlir import ir
from jaxlib.mlir.dialects import func
from jaxlib.mlir.dialects import stablehlo as hlo

from metagrad.compiler.dialect import functions

_STAYS_ZERO = {
    "stablehlo.add",
    "stablehlo.subtract",
    "stablehlo.negate",
    "stablehlo.convert",
    "stablehlo.reshape",
    "stablehlo.broadcast_in_dim",
    "stablehlo.transpose",
    "stablehlo.slice",
    "stablehlo.reverse",
    "stablehlo.real",
}
_PRODUCTS = {"stablehlo.multiply", "stablehlo.dot_general", "stablehlo.convolution"}


def zero_results(module: ir.Module, function: func.FuncOp) -> list[bool]:
    """For each result of a function, whether it is known to be zero whatever the arguments are.

    That is a constant of zeros, also one that comes out of a call, is broadcast or is rearranged.
    """
    memo: dict[str, list[bool]] = {}

    def of(function: func.FuncOp) -> list[bool]:
        name = function.name.value
        if name not in memo:
            memo[name] = [is_zero(value) for value in functions.returned(function)]
        return memo[name]

    def is_zero(value: ir.Value) -> bool:
        """Whether all that the value is made of is zero."""
        queue, seen = [value], {value}
        while queue:
            value = queue.pop()
            if not isinstance(value, ir.OpResult):
                return False
            op = value.owner.opview
            if isinstance(op, func.CallOp):
                if not of(functions.get(module, op.callee.value))[value.result_number]:
                    return False
            elif isinstance(op, hlo.ConstantOp):
                if not _is_zero_constant(op):
                    return False
            elif op.operation.name in _STAYS_ZERO:
                more = [operand for operand in op.operands if operand not in seen]
                queue += more
                seen.update(more)
            else:
                return False
        return True

    return of(function)


def _is_zero_constant(op: hlo.ConstantOp) -> bool:
    elements = op.value
    return (
        functions.is_float(op.result.type)
        and isinstance(elements, ir.DenseElementsAttr)
        and elements.is_splat
        and elements.get_splat_value().value == 0
    )


def remove(function: func.FuncOp, is_zero: Callable[[ir.Operation], bool]) -> None:
    """Simplifies what depends on the results of the ops that `is_zero` names, in place."""
    zeros: dict[ir.Value, ir.Operation] = {}
    replaced: list[ir.Operation] = []
    for op in functions.operations(function):
        zero_operands = [operand in zeros for operand in op.operands] if zeros else []
        if is_zero(op) or (any(zero_operands) and _gives_zero(op.name, zero_operands)):
            zeros[op.results[0]] = op
        elif any(zero_operands) and (rest := _without_zero(op, zero_operands)) is not None:
            op.results[0].replace_all_uses_with(rest)
            replaced.append(op)
    for op in reversed(replaced):
        op.erase()
    for value, op in reversed(zeros.items()):
        # What still reads it gets the number.
        if any(True for _ in value.uses):
            with ir.InsertionPoint(op), op.location:
                value.replace_all_uses_with(_constant(value.type))
        op.erase()


def _gives_zero(name: str, zero_operands: list[bool]) -> bool:
    """Whether an op's result is zero; `zero_operands` says of each operand whether it is."""
    if name in _PRODUCTS:
        return any(zero_operands)
    if name == "stablehlo.divide":
        return zero_operands[0]
    if name == "stablehlo.select":
        return zero_operands[1] and zero_operands[2]
    return name in _STAYS_ZERO and all(zero_operands)


def _without_zero(op: ir.Operation, zero_operands: list[bool]) -> ir.Value | None:
    """What a sum or a difference is without its operand that is zero."""
    if op.name == "stablehlo.add":
        return op.operands[zero_operands.index(False)]
    if op.name == "stablehlo.subtract":
        if zero_operands[1]:
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
