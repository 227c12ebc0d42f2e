"""Functions as the passes see them: finding, cloning, shortening and calling `func.func` ops of one module.

A metagrad module holds a small set of functions with fixed names and argument groups:

    @step     (state, meta, batch)            -> (state', aux)
    @outer    (state, outer arguments)        -> (value, outer aux)
    @update   (state, meta, batch, inner)     -> (state', aux)          after `cut`; "inner" are the inner gradients' results
    @inputs_i (state, meta, batch, inner)     -> operands of loss i     after `cut`; "inner" of the gradients before the i-th
    @inner    (state, meta, batch)            -> (inner)                after `cut`
    @loss_i   operands                        -> (value, aux)
    @step_vjp (state, meta, batch, inner, cotangents of state') -> cotangents       after `differentiate`; of the active operands
    @outer_vjp(state, outer arguments)        -> (value, outer aux, cotangents)     after `differentiate`
    @main     (state, meta, batches, outer arguments) -> the results    after `schedule`
    @prints   (state, meta, batch)            -> ()                     if the step prints
    @outer_prints (state, outer arguments)    -> ()                     if the outer function prints

The sizes of the groups stand in the module's `metagrad.arguments` attribute, so that a `.mlir` file says all that a pass needs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from jaxlib.mlir import ir
from jaxlib.mlir.dialects import func

BY_JAX, BY_ENZYME = MARKS = "metagrad.by_jax", "metagrad.by_enzyme"
"""Attributes of a function that say who made it: a derivative that JAX traced, or one that is Enzyme's work throughout."""


@dataclasses.dataclass(frozen=True)
class Arguments:
    """How many leaves each group of arguments has (leaves are the flattened pytrees, in order)."""

    state: int
    meta: int
    batch: int
    outer: int

    @classmethod
    def of(cls, module: ir.Module) -> Arguments:
        attributes = module.operation.attributes
        if "metagrad.arguments" not in attributes:
            raise ValueError(
                "the module has no `metagrad.arguments` attribute; it needs one like "
                "{state = 2 : i64, meta = 1 : i64, batch = 1 : i64, outer = 0 : i64} to say which argument of @step is what"
            )
        groups = attributes["metagrad.arguments"]
        missing = [field.name for field in dataclasses.fields(cls) if field.name not in groups]
        if missing:
            raise ValueError(
                f"the module's `metagrad.arguments` attribute does not say how many arguments are `{missing[0]}`: {groups}"
            )
        return cls(
            **{field.name: int(groups[field.name].value) for field in dataclasses.fields(cls)}
        )

    def attach(self, module: ir.Module) -> None:
        i64 = ir.IntegerType.get_signless(64, module.context)
        with module.context:
            module.operation.attributes["metagrad.arguments"] = ir.DictAttr.get(
                {
                    name: ir.IntegerAttr.get(i64, size)
                    for name, size in dataclasses.asdict(self).items()
                }
            )

    @property
    def step(self) -> int:
        """Arguments of @step."""
        return self.state + self.meta + self.batch


def wrt_of(module: ir.Module) -> tuple[str, ...]:
    """What the metagradient is taken with respect to: the module's `metagrad.wrt` attribute."""
    if "metagrad.wrt" not in module.operation.attributes:
        raise ValueError(
            'the module has no `metagrad.wrt` attribute; it needs one like ["meta"], of "meta", "state" and "batches"'
        )
    return tuple(attr.value for attr in module.operation.attributes["metagrad.wrt"])


def find(module: ir.Module, name: str) -> func.FuncOp | None:
    for op in module.body.operations:
        if isinstance(op, func.FuncOp) and op.name.value == name:
            return op
    return None


def need(module: ir.Module, name: str, pass_name: str) -> func.FuncOp:
    found = find(module, name)
    if found is None:
        raise ValueError(f"pass {pass_name!r}: the module has no function @{name}")
    return found


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
    return find(module, name)


def set_results(function: func.FuncOp, values: Sequence[ir.Value]) -> None:
    """Makes `function` return `values`, drops what is then dead and brings the function's type up to date."""
    block = body(function)
    end = block.operations[len(block.operations) - 1]
    with ir.InsertionPoint(end), end.location:
        func.ReturnOp(list(values))
    end.operation.erase()
    drop_dead(block)
    retype(function)


def retype(function: func.FuncOp) -> None:
    """Writes the function's type from its block arguments and its return; argument and result attributes go."""
    arguments = types(body(function).arguments)
    function.attributes["function_type"] = ir.TypeAttr.get(
        ir.FunctionType.get(arguments, types(returned(function)))
    )
    for stale in ("arg_attrs", "res_attrs"):
        if stale in function.attributes:
            del function.attributes[stale]


def drop_dead(block: ir.Block) -> None:
    """Erases ops without uses, last first. StableHLO is pure but for custom calls that say otherwise."""
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
    """Appends a function whose body `build` writes: from the block's arguments to the returned values."""
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
    used: set[str] = set()

    def note(name: str) -> str:
        used.add(name)
        return name

    for op in _with_symbols(function):
        for name in op.attributes:
            _map_symbols(op.attributes[name], note)
    return used


def rename(module: ir.Module, names: dict[str, str]) -> None:
    """Renames functions, and every reference to them."""
    new_name = lambda name: names.get(name, name)
    for function in module.body.operations:
        if function.attributes["sym_name"].value in names:
            function.attributes["sym_name"] = ir.StringAttr.get(
                new_name(function.attributes["sym_name"].value)
            )
        for op in _with_symbols(function):
            for attribute in list(op.attributes):
                mapped = _map_symbols(op.attributes[attribute], new_name)
                if mapped != op.attributes[attribute]:
                    op.attributes[attribute] = mapped


def _with_symbols(function: func.FuncOp):
    """The function and the ops in it that can refer to others. A constant cannot, and jaxlib fails to read a complex one's value."""
    return (
        function,
        *(op for op in walk(body(function)) if op.operation.name != "stablehlo.constant"),
    )


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


def walk(block: ir.Block):
    """Every op of the block and of the regions in it, outer ops first."""
    for op in block.operations:
        yield op
        for region in op.regions:
            for inner in region.blocks:
                yield from walk(inner)
