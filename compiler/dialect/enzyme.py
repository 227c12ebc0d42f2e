"""Builds `enzyme.autodiff` and `enzyme.fwddiff`: reverse and forward mode of a function, as ops.

Both take the function's operands in order. Each argument and each result has an activity:
  active       reverse: the derivative is wanted (arguments), or a seed is given (results)
  dup          forward: the operand is followed by its tangent (arguments), or primal and
               tangent are returned (results)
  const        no derivative
"noneed" on a result says that its primal is not returned.
"""

from __future__ import annotations

from collections.abc import Sequence

from jaxlib.mlir import ir
from jaxlib.mlir.dialects import func

REVERSE_MODE = "enzyme.autodiff"
FORWARD_MODE = "enzyme.fwddiff"
DERIVATIVES = (REVERSE_MODE, FORWARD_MODE)

IGNORE_DERIVATIVES = "enzyme.ignore_derivatives"


def ignore_derivatives(value: ir.Value) -> ir.Value:
    """The value as a constant of the next differentiation alone, at the current insertion point."""
    return ir.Operation.create(IGNORE_DERIVATIVES, results=[value.type], operands=[value]).result


def autodiff(
    function: func.FuncOp,
    operands: Sequence[ir.Value],
    active: Sequence[int],
    seeds: dict[int, ir.Value],
    primals: Sequence[int] = (),
) -> tuple[list[ir.Value], list[ir.Value]]:
    """Reverse mode: the cotangents of `operands[i]` for i in `active`, given cotangents of some
    results.

    Args:
      function: what is differentiated.
      operands: its operands.
      active: indices of the operands whose cotangents are returned, ascending.
      seeds: cotangent by index of result; the other results get none.
      primals: indices of the results whose values are returned as well.

    Returns:
      (values of `primals`, cotangents of `active`).
    """
    arguments, results = list(function.type.inputs), list(function.type.results)
    returned = [
        ("enzyme_active" if i in seeds else "enzyme_const") + ("" if i in primals else "noneed")
        for i in range(len(results))
    ]
    outputs = [results[i] for i in range(len(results)) if i in primals] + [
        arguments[i] for i in active
    ]
    op = ir.Operation.create(
        REVERSE_MODE,
        results=outputs,
        operands=[*operands, *(seeds[i] for i in sorted(seeds))],
        attributes={
            "fn": ir.FlatSymbolRefAttr.get(function.name.value),
            "activity": _activities(
                [
                    "enzyme_active" if i in set(active) else "enzyme_const"
                    for i in range(len(arguments))
                ]
            ),
            "ret_activity": _activities(returned),
        },
    )
    values: list[ir.Value] = list(op.results)
    return values[: len(primals)], values[len(primals) :]


def fwddiff(
    function: func.FuncOp, operands: Sequence[ir.Value], tangents: dict[int, ir.Value]
) -> list[ir.Value]:
    """Forward mode: the tangents of all results of `function`, which must be floating point.

    Args:
      tangents: tangent by index of operand; the other operands are held constant.
    """
    interleaved: list[ir.Value] = []
    for i, operand in enumerate(operands):
        interleaved += [operand, tangents[i]] if i in tangents else [operand]
    op = ir.Operation.create(
        FORWARD_MODE,
        results=list(function.type.results),
        operands=interleaved,
        attributes={
            "fn": ir.FlatSymbolRefAttr.get(function.name.value),
            "activity": _activities(
                ["enzyme_dup" if i in tangents else "enzyme_const" for i in range(len(operands))]
            ),
            "ret_activity": _activities(["enzyme_dupnoneed"] * len(function.type.results)),
        },
    )
    return list(op.results)


def _activities(names: Sequence[str]) -> ir.Attribute:
    return ir.ArrayAttr.get([ir.Attribute.parse(f"#enzyme<activity<{name}>>") for name in names])
