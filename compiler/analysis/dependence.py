"""Which results of a function a derivative can reach from which arguments.

An analysis, not a pass. It says which operands of an `enzyme.*` op are active. (The frontend says
which leaves of the state need a cotangent from step to step.)

- A derivative ends at a value that is neither floating point nor complex, at
  `enzyme.ignore_derivatives`, and at a function that is constant but for its jumps (`sign`,
  `floor`). JAX has no derivative for those, not even a 0 that could meet an infinity further up.
- Complex values carry derivatives: no leaf is complex, but JAX may differentiate a function with a
  Fourier transform inside.
- Loops and conditionals are taken whole: every result depends on every operand and on every value
  captured from outside. So is a function that JAX differentiates, because a custom rule may send a
  derivative past an integer or a stopped value (a straight-through estimator; the implicit
  derivative of a linear solve), also if it returns an argument as it came. This can cost a buffer,
  never a wrong zero.
"""

from __future__ import annotations

from collections.abc import Iterable

from jaxlib.mlir import ir
from jaxlib.mlir.dialects import func

from metagrad.compiler.dialect import enzyme, functions, metagrad

Dependence = list[frozenset[int]]

_ENDS = {
    enzyme.IGNORE_DERIVATIVES,
    *(
        f"stablehlo.{name}"
        for name in ("sign", "floor", "ceil", "round_nearest_even", "round_nearest_afz")
    ),
}


def dependence(
    module: ir.Module, function: func.FuncOp, memo: dict[str, Dependence] | None = None
) -> Dependence:
    """For each result of `function`, the indices of the arguments that it depends on
    differentiably.
    """
    memo = {} if memo is None else memo
    name = function.name.value
    if name not in memo:
        arguments = list(functions.body(function).arguments)
        reach: dict[ir.Value, frozenset[int]] = {
            argument: frozenset([index]) if carries_derivative(argument.type) else frozenset()
            for index, argument in enumerate(arguments)
        }
        if metagrad.VJP in function.attributes:
            everything = _union(reach.values())
            reach |= {
                value: everything
                for value in functions.returned(function)
                if carries_derivative(value.type)
            }
        else:
            for op in functions.body(function).operations:
                _visit(module, op, reach, memo)
        memo[name] = [reach.get(value, frozenset()) for value in functions.returned(function)]
    return memo[name]


def _visit(module: ir.Module, op: ir.OpView, reach: dict, memo: dict[str, Dependence]) -> None:
    if op.operation.name in _ENDS:
        return
    if isinstance(op, func.CallOp):
        callee = functions.get(module, op.callee.value)
        through = dependence(module, callee, memo)
        for result, arguments in zip(op.results, through):
            if carries_derivative(result.type):
                reach[result] = _union(reach.get(op.operands[i], frozenset()) for i in arguments)
        return
    everything = _union(reach.get(operand, frozenset()) for operand in _operands(op))
    for result in op.results:
        if carries_derivative(result.type):
            reach[result] = everything


def carries_derivative(ty: ir.Type) -> bool:
    """Whether a value of this type can depend on something differentiably: floating point and
    complex ones can.
    """
    return functions.is_float(ty) or (
        isinstance(ty, ir.RankedTensorType) and isinstance(ty.element_type, ir.ComplexType)
    )


def _operands(op: ir.OpView) -> Iterable[ir.Value]:
    yield from op.operands
    if op.regions:
        for inner in functions.operations(op):
            yield from inner.operands


def _union(sets: Iterable[frozenset[int]]) -> frozenset[int]:
    return frozenset().union(*sets)
