"""Joins the derivative of a square root that comes in two branches.

    %z = compare EQ, %x, 0
    %a = select %z, 0, %d / (2 * sqrt %x)             Enzyme's rule
    %b = select %z, %d / select(%z, %x, 1), 0         what is attached at zero (frontend/exact_lowerings.py)
    add %a, %b
->
    %d / (2 * sqrt %x)

Equal for every %x: where it is not zero, %b is zero; where it is, sqrt %x is the same zero, and %d / (2 * %x) is %d / %x, infinite or NaN.  (The sum makes a +0 of a
quotient that is -0.)  Enzyme's rule is exact but at zero; the two branches read %x once more for every parameter of an adaptive optimiser, and keep it in memory for that.
"""

from __future__ import annotations

from jaxlib.mlir import ir

from metagrad.compiler.matching import operations, producer, replace, splat

NAME = "join-square-roots"


def run(module: ir.Module) -> None:
    for op in operations(module, "add"):
        for usual, at_zero in (op.operands, reversed(op.operands)):
            quotient = _joined(usual, at_zero)
            if quotient is not None:
                replace(op, quotient)
                break


def _joined(usual: ir.Value, at_zero: ir.Value) -> ir.Value | None:
    """%d / (2 * sqrt %x), if these are the two branches."""
    first, second = producer(usual, "select"), producer(at_zero, "select")
    if first is None or second is None or splat(first.operands[1]) != 0 or splat(second.operands[2]) != 0:
        return None
    x = _tested_for_zero(first.operands[0])
    if x is None or not _is_zero_test(second.operands[0], x):
        return None
    quotient, other = producer(first.operands[2], "divide"), producer(second.operands[1], "divide")
    if quotient is None or other is None or _without_negations(quotient.operands[0]) != _without_negations(other.operands[0]):
        return None
    return quotient.results[0] if _is_twice_the_root(quotient.operands[1], x) and _is_guarded(other.operands[1], x) else None


def _tested_for_zero(condition: ir.Value) -> ir.Value | None:
    """%x of `compare EQ, %x, 0`."""
    compare = producer(condition, "compare")
    if compare is None or str(compare.attributes["comparison_direction"]) != "#stablehlo<comparison_direction EQ>":
        return None
    return compare.operands[0] if splat(compare.operands[1]) == 0 else None


def _is_zero_test(condition: ir.Value, x: ir.Value) -> bool:
    tested = _tested_for_zero(condition)
    # The bindings cannot compare a value with None.
    return tested is not None and tested == x


def _is_twice_the_root(value: ir.Value, x: ir.Value) -> bool:
    product = producer(value, "multiply")
    if product is None:
        return False
    for two, root in (product.operands, reversed(product.operands)):
        sqrt = producer(root, "sqrt")
        if splat(two) == 2 and sqrt is not None and sqrt.operands[0] == x:
            return True
    return False


def _is_guarded(value: ir.Value, x: ir.Value) -> bool:
    """`select(%x == 0, %x, anything)`"""
    select = producer(value, "select")
    return select is not None and _is_zero_test(select.operands[0], x) and select.operands[1] == x


def _without_negations(value: ir.Value) -> tuple[ir.Value, bool]:
    """(%y, whether it is negated): what Enzyme writes as a negation of a negation is the value itself."""
    negated = False
    while (negation := producer(value, "negate")) is not None:
        value, negated = negation.operands[0], not negated
    return value, negated
