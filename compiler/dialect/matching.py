"""What a rewrite asks of a value: which op made it, whether it is one number throughout, whether
two values are the same expression.
"""

from __future__ import annotations

from typing import Any

from jaxlib.mlir import ir
from jaxlib.mlir.dialects import func

from metagrad.compiler.dialect import functions


def producer(value: ir.Value, name: str) -> Any:
    """The op that made `value`, if it is a `stablehlo.<name>`; else None."""
    owner = value.owner
    return (
        None if isinstance(owner, ir.Block) or owner.name != f"stablehlo.{name}" else owner.opview
    )


def users(value: ir.Value) -> list[ir.Operation]:
    """The ops that read the value, each once."""
    return list(dict.fromkeys(use.owner.operation for use in value.uses))


def splat(value: ir.Value) -> float | None:
    """The number that every element of a floating-point constant is, also one that is broadcast."""
    broadcast = producer(value, "broadcast_in_dim")
    if broadcast is not None:
        return splat(broadcast.operands[0])
    constant = producer(value, "constant")
    if constant is None or not functions.is_float(value.type):
        return None
    attribute = constant.attributes["value"]
    return (
        attribute.get_splat_value().value
        if isinstance(attribute, ir.DenseElementsAttr) and attribute.is_splat
        else None
    )


def operations(module: ir.Module, name: str, mark: str | None = None) -> list[Any]:
    """Every `stablehlo.<name>` of the module, as it is now; with `mark`, in the functions that have
    this attribute.

    They are of the class that jaxlib has for that name.
    """
    return [
        op.opview
        for function in module.body.operations
        if isinstance(function, func.FuncOp) and (mark is None or mark in function.attributes)
        for op in functions.operations(function, f"stablehlo.{name}".__eq__)
    ]


def replace(op: ir.OpView, value: ir.Value) -> None:
    """Uses `value` in place of the op's one result, and erases what is not used any more."""
    op.results[0].replace_all_uses_with(value)
    erase_unused(op.operation)


def erase_unused(*ops: ir.Operation) -> None:
    """Erases ops, of which one may stand twice, and what they alone used.

    The ops that we rewrite have no effects; a custom call may.
    """
    waiting: dict[Any, None] = dict.fromkeys(ops)
    while waiting:
        op, _ = waiting.popitem()
        if (
            op.regions
            or not op.name.startswith("stablehlo.")
            or op.name == "stablehlo.custom_call"
            or any(users(result) for result in op.results)
        ):
            continue
        sources = dict.fromkeys(
            operand.owner for operand in op.operands if not isinstance(operand.owner, ir.Block)
        )
        op.erase()
        waiting |= sources
