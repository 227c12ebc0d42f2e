"""Functions as the passes see them: finding, cloning, shortening and calling `func.func` ops of one
module.

A metagrad module holds a small set of functions with fixed names and argument groups:

    @step     (state, meta, batch)            -> (state', aux)
    @outer    (state, outer arguments)        -> (value, outer aux)
    @loss_i   operands                        -> (value, aux)
    @prints   (state, meta, batch)            -> ()             if the step prints
    @outer_prints (state, outer arguments)    -> ()             if the outer function prints
    @counters (state, meta)                   -> (new values of `metagrad.counters`)  if there are

After `cut`, where "inner" are the results of the inner gradients (in @inputs_i, of those before
the i-th):

    @update   (state, meta, batch, inner)     -> (state', aux)
    @inputs_i (state, meta, batch, inner)     -> operands of loss i
    @inner    (state, meta, batch)            -> (inner)

After `differentiate`, where the cotangents are those of the active operands:

    @step_vjp (state, meta, batch, inner, cotangents of state') -> cotangents
    @outer_vjp(state, outer arguments)        -> (value, outer aux, cotangents)

Where the outer value is a vector of queries, @outer_vjp also takes a cotangent of it. After
`queries` it does not any more, and the cotangents of both functions have a leading axis for the
queries.

After `schedule`:

    @main     (state, meta, batches, outer arguments) -> the results

The sizes of the groups stand in an attribute of the module (metagrad.py), so that a `.mlir` file
says all that a pass needs.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Sequence

from jaxlib.mlir import ir
from jaxlib.mlir.dialects import func

CUSTOM_CALL = "stablehlo.custom_call"
PIECES = ("inner", "update", "step_vjp", "outer_vjp", "prints", "outer_prints", "counters")
"""The functions that every program is made of; the last three are not in every module."""

BACKEND_CONFIG = "mhlo.backend_config"
"""The attribute of a custom call that says what is meant."""


def find(module: ir.Module, name: str) -> func.FuncOp | None:
    for op in module.body.operations:
        if isinstance(op, func.FuncOp) and op.name.value == name:
            return op
    return None


def get(module: ir.Module, name: str) -> func.FuncOp:
    """A function that the passes before have seen to be there.

    Raises:
      ValueError: it is not, in a module that was written by hand.
    """
    function = find(module, name)
    if function is None:
        raise ValueError(f"the module has no function @{name}")
    return function


def need(module: ir.Module, name: str, pass_name: str) -> func.FuncOp:
    function = find(module, name)
    if function is None:
        raise ValueError(f"pass {pass_name!r}: the module has no function @{name}")
    return function


def body(function: func.FuncOp) -> ir.Block:
    return function.regions[0].blocks[0]


def returned(function: func.FuncOp) -> list[ir.Value]:
    return list(body(function).operations[len(body(function).operations) - 1].operands)


def types(values: Sequence[ir.Value]) -> list[ir.Type]:
    return [value.type for value in values]


def is_float(ty: ir.Type) -> bool:
    """Whether a value of this type can carry a derivative."""
    return isinstance(ty, ir.RankedTensorType) and isinstance(ty.element_type, ir.FloatType)


def clone(module: ir.Module, function: func.FuncOp, name: str) -> func.FuncOp:
    """A private copy of `function` called `name`, put right behind it."""
    copy = function.operation.clone(ip=ir.InsertionPoint(function))
    copy.operation.move_after(function.operation)
    copy.attributes["sym_name"] = ir.StringAttr.get(name)
    copy.attributes["sym_visibility"] = ir.StringAttr.get("private")
    return get(module, name)


def set_results(function: func.FuncOp, values: Sequence[ir.Value]) -> None:
    """Makes `function` return `values`, drops what is then dead and brings the function's type up
    to date.
    """
    block = body(function)
    end = block.operations[len(block.operations) - 1]
    with ir.InsertionPoint(end), end.location:
        func.ReturnOp(list(values))
    end.operation.erase()
    drop_dead(block)
    retype(function)


def retype(function: func.FuncOp) -> None:
    """Writes the function's type from its block arguments and its return; argument and result
    attributes go.
    """
    arguments = types(body(function).arguments)
    function.attributes["function_type"] = ir.TypeAttr.get(
        ir.FunctionType.get(arguments, types(returned(function)))
    )
    for stale in ("arg_attrs", "res_attrs"):
        if stale in function.attributes:
            del function.attributes[stale]


def drop_dead(block: ir.Block) -> None:
    """Erases ops without uses, last first.

    StableHLO is pure but for custom calls that say otherwise.
    """
    for op in reversed(list(block.operations)[:-1]):
        if any(True for result in op.results for _ in result.uses):
            continue
        effect = (
            op.attributes["has_side_effect"].value if "has_side_effect" in op.attributes else False
        )
        if not effect:
            op.operation.erase()


def add_function(
    module: ir.Module,
    name: str,
    inputs: Sequence[ir.Type],
    build: Callable[[list[ir.Value]], Sequence[ir.Value]],
    *,
    visibility: str = "private",
) -> func.FuncOp:
    """Appends a function whose body `build` writes: from the block's arguments to the returned
    values.
    """
    with ir.InsertionPoint(module.body), ir.Location.name(name, context=module.context):
        function = func.FuncOp(name, ir.FunctionType.get(list(inputs), []), visibility=visibility)
        block = function.add_entry_block()
        with ir.InsertionPoint(block):
            results = list(build(list(block.arguments)))
            func.ReturnOp(results)
        retype(function)
    return function


def call(function: func.FuncOp, operands: Sequence[ir.Value]) -> list[ir.Value]:
    """`func.call` at the current insertion point."""
    results = list(function.type.results)
    return list(
        func.CallOp(results, ir.FlatSymbolRefAttr.get(function.name.value), list(operands)).results
    )


def call_apart(
    name: str, results: Sequence[ir.Type], operands: Sequence[ir.Value]
) -> list[ir.Value]:
    """`func.call` at the current insertion point that neither MLIR nor XLA inlines.

    What the function computes is then not found to be computed elsewhere too.
    """
    call = func.CallOp(list(results), ir.FlatSymbolRefAttr.get(name), list(operands))
    call.operation.attributes[NO_INLINE] = ir.UnitAttr.get()
    call.operation.attributes["mhlo.frontend_attributes"] = ir.DictAttr.get(
        {"inlineable": ir.StringAttr.get("false")}
    )
    return list(call.results)


NO_INLINE = "no_inline"
"""Marks such a call for MLIR's inliner and for our passes. XLA reads the other attribute."""


def inline(module: ir.Module, call: func.CallOp) -> None:
    """Puts the ops of the function that is called in the place of the call."""
    taken = {op.attributes["sym_name"].value for op in module.body.operations}
    copy = clone(module, get(module, call.callee.value), new_name("inlined", taken))
    for argument, operand in zip(body(copy).arguments, call.operands):
        argument.replace_all_uses_with(operand)
    results = returned(copy)
    for old, new in zip(call.results, results):
        old.replace_all_uses_with(new)
    for op in list(body(copy).operations)[:-1]:
        op.operation.move_before(call.operation)
    call.operation.erase()
    copy.operation.erase()


def exchange(op: ir.Operation, results: Sequence[ir.Value]) -> None:
    """Puts values in the place of an op's results, and erases it."""
    for old, new in zip(op.results, results):
        old.replace_all_uses_with(new)
    op.erase()


def drop_unreachable(module: ir.Module, roots: Sequence[str]) -> None:
    """Erases private functions that no root reaches through any symbol attribute."""
    reached = reachable(module, roots)
    for op in list(module.body.operations):
        if isinstance(op, func.FuncOp) and op.name.value not in reached:
            op.operation.erase()


def reachable(module: ir.Module, roots: Sequence[str]) -> set[str]:
    """Names of the roots and of all functions that they refer to, directly or through others."""
    functions = {op.name.value: op for op in module.body.operations if isinstance(op, func.FuncOp)}
    reached, queue = set(), list(roots)
    while queue:
        name = queue.pop()
        if name in functions and name not in reached:
            reached.add(name)
            queue += symbols_used(functions[name])
    return reached


def symbols_used(function: func.FuncOp) -> set[str]:
    """Names of the functions that `function` refers to, in its own attributes or in an op's."""
    return {symbol for op in _with_symbols(function) for symbol in symbols_of(op)}


def symbols_of(op: ir.Operation | ir.OpView) -> set[str]:
    """Names of the functions that an op refers to."""
    used: set[str] = set()

    def note(name: str) -> str:
        used.add(name)
        return name

    for name in op.attributes:
        _map_symbols(op.attributes[name], note)
    return used


def new_name(name: str, taken: Collection[str]) -> str:
    """`name`, with a number behind it if it is taken."""
    numbered = (f"{name}_{number}" for number in itertools.count())
    return next(n for n in itertools.chain([name], numbered) if n not in taken)


def rename(module: ir.Module, names: dict[str, str]) -> None:
    """Renames functions, and every reference to them."""

    def renamed(name: str) -> str:
        return names.get(name, name)

    for function in module.body.operations:
        if function.attributes["sym_name"].value in names:
            function.attributes["sym_name"] = ir.StringAttr.get(
                renamed(function.attributes["sym_name"].value)
            )
        for op in _with_symbols(function):
            for attribute in list(op.attributes):
                mapped = _map_symbols(op.attributes[attribute], renamed)
                if mapped != op.attributes[attribute]:
                    op.attributes[attribute] = mapped


def _with_symbols(function: ir.OpView) -> list[ir.Operation | ir.OpView]:
    """The function and the ops in it that can refer to others.

    Of StableHLO's only some can, and jaxlib fails to read a complex constant's value.
    """
    return [
        function,
        *operations(
            function,
            lambda name: name in _REFERRING or not name.startswith("stablehlo."),
        ),
    ]


_REFERRING = {CUSTOM_CALL, "stablehlo.composite"}


def _map_symbols(attribute: ir.Attribute, change: Callable[[str], str]) -> ir.Attribute:
    if isinstance(attribute, ir.FlatSymbolRefAttr):
        return ir.FlatSymbolRefAttr.get(change(attribute.value))
    if isinstance(attribute, ir.ArrayAttr):
        return ir.ArrayAttr.get([_map_symbols(element, change) for element in attribute])
    if isinstance(attribute, ir.DictAttr):
        return ir.DictAttr.get(
            {named.name: _map_symbols(named.attr, change) for named in attribute}
        )
    return attribute


def operations(
    function: ir.OpView | ir.Module, chosen: Callable[[str], bool] | None = None
) -> list[ir.Operation]:
    """The ops inside of a function, of a loop or of a module, outer ops first: all of them, or
    those whose name is `chosen`.

    The walk is MLIR's own, which is some ten times faster than one in Python.
    """
    collected: list[ir.Operation] = []

    def visit(op: ir.Operation) -> ir.WalkResult:
        if chosen is None or chosen(op.name):
            collected.append(op)
        return ir.WalkResult.ADVANCE

    function.operation.walk(visit, ir.WalkOrder.PRE_ORDER)
    return [op for op in collected if op != function.operation]
