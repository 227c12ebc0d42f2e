"""Arrays from outside of the step, by number: they are arguments of the finished program.

    %c = stablehlo.custom_call @metagrad.captured() {backend_config = {index = 3}} : tensor<...>

The op stands for array 3 wherever it is. While functions are differentiated it stays at their top,
so that no loop keeps a copy for each of its iterations; @main gets the arguments at the end.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from jaxlib.mlir import ir
from jaxlib.mlir.dialects import func
from jaxlib.mlir.dialects import stablehlo as hlo

from metagrad.compiler.dialect import functions, metagrad


def captured(ty: ir.Type, index: int) -> ir.Value:
    """Builds the op at the current insertion point."""
    i64 = ir.IntegerType.get_signless(64)
    call = hlo.CustomCallOp(
        [ty],
        [],
        call_target_name=ir.StringAttr.get(metagrad.CAPTURED),
        has_side_effect=ir.BoolAttr.get(False),
        api_version=ir.IntegerAttr.get(ir.IntegerType.get_signless(32), 4),
    )
    call.attributes[functions.BACKEND_CONFIG] = ir.DictAttr.get(
        {"index": ir.IntegerAttr.get(i64, index)}
    )
    return call.result


def lift(module: ir.Module, roots: Iterable[str]) -> None:
    """Moves the ops to the top of the `roots`; other functions take the arrays as arguments.

    A function that a root calls, directly or through others, gets an argument for each array that
    it needs, behind its own.
    """
    roots = set(roots)
    needs = _needs(module, roots)
    for function in _functions(module):
        needed = needs[function.name.value]
        if not needed:
            continue
        block = functions.body(function)
        if function.name.value in roots:
            with ir.InsertionPoint.at_block_begin(block), function.location:
                arrays = {index: captured(ty, index) for index, ty in needed.items()}
        else:
            arrays = {
                index: block.add_argument(ty, function.location) for index, ty in needed.items()
            }
        _use(function, arrays)
        for op in _calls(function):
            callee = _callee(op)
            if callee not in roots and needs[callee]:
                _call_with(op, callee, [arrays[index] for index in needs[callee]])
        if function.name.value not in roots:
            functions.retype(function)


def become_arguments(module: ir.Module, name: str) -> None:
    """Gives the function @name an argument for each array that the module lists, used or not."""
    types = types_of(module)
    if not types:
        return
    lift(module, [name])
    function = functions.get(module, name)
    block = functions.body(function)
    _use(function, dict(enumerate(block.add_argument(ty, function.location) for ty in types)))
    functions.retype(function)


def list_types(module: ir.Module, types: Sequence[ir.Type]) -> None:
    """Writes the attribute of a module that lists the arrays."""
    module.operation.attributes[metagrad.CAPTURED] = ir.ArrayAttr.get(
        [ir.TypeAttr.get(ty) for ty in types]
    )


def types_of(module: ir.Module) -> list[ir.Type]:
    """The arrays' types, by number: the module's attribute. None are listed if there is none."""
    attributes = module.operation.attributes
    if metagrad.CAPTURED not in attributes:
        return []
    return [attribute.value for attribute in attributes[metagrad.CAPTURED]]


def _needs(module: ir.Module, roots: set[str]) -> dict[str, dict[int, ir.Type]]:
    """For each function, the numbers and types of the arrays in it and in what it calls.

    What a root needs it does not ask of its callers.
    """
    needs, calls = {}, {}
    for function in _functions(module):
        name = function.name.value
        needs[name] = {_index(op): op.results[0].type for op in _ops(function)}
        calls[name] = {_callee(op) for op in _calls(function)} - roots
    grows = any(needs.values())
    while grows:
        grows = False
        for name, callees in calls.items():
            for callee in callees:
                more = needs[callee].keys() - needs[name].keys()
                needs[name] |= {index: needs[callee][index] for index in more}
                grows = grows or bool(more)
    return {name: dict(sorted(arrays.items())) for name, arrays in needs.items()}


def _functions(module: ir.Module) -> list[func.FuncOp]:
    return [op for op in module.body.operations if isinstance(op, func.FuncOp)]


def _ops(function: func.FuncOp) -> list[ir.Operation]:
    calls = functions.operations(function, functions.CUSTOM_CALL.__eq__)
    return [op for op in calls if op.attributes["call_target_name"].value == metagrad.CAPTURED]


def _index(op: ir.Operation) -> int:
    return op.attributes[functions.BACKEND_CONFIG]["index"].value


def _use(function: func.FuncOp, arrays: dict[int, ir.Value]) -> None:
    """Puts the arrays in the place of the function's ops."""
    for op in _ops(function):
        array = arrays[_index(op)]
        if op.results[0] != array:
            op.results[0].replace_all_uses_with(array)
            op.erase()


_CALLEE = {"func.call": "callee", "stablehlo.composite": "decomposition"}


def _calls(function: func.FuncOp) -> list[ir.Operation]:
    return functions.operations(function, _CALLEE.__contains__)


def _callee(op: ir.Operation) -> str:
    return op.attributes[_CALLEE[op.name]].value


def _call_with(op: ir.Operation, callee: str, more: Sequence[ir.Value]) -> None:
    with ir.InsertionPoint(op), op.location:
        call = func.CallOp(
            functions.types(op.results),
            ir.FlatSymbolRefAttr.get(callee),
            [*op.operands, *more],
        )
    for old, new in zip(op.results, call.results):
        old.replace_all_uses_with(new)
    op.erase()
