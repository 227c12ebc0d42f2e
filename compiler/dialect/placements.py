"""Where on a mesh a value lies: the user's sharding constraints and `shard_map`s, on their way
through the passes.

JAX lowers both to ops of Shardy (`sdy`). Enzyme has no rule for these, and its library may print
them otherwise than JAX's reads them. So `hide` puts ops in their places that Enzyme carries along,
and `show` puts them back when all is differentiated:

    %y = sdy.sharding_constraint %x <@mesh, [{"data"}, {}]>
->
    %one = stablehlo.custom_call @metagrad.placed() {sharding}
    %y   = stablehlo.multiply %x, %one

A constraint is the identity, and so is a product with a one that nothing is known of. The rule of
the product gives what JAX's rules give: a tangent and a cotangent have the constraint of their
primal. What is not a float has no derivative and stays an op on its value, which is not a product.

    %y = sdy.manual_computation(%x) in_shardings... out_shardings... (%local) { body }
->
    %y = stablehlo.custom_call @metagrad.manual(%x) {called_computations = [@manual], shardings}

JAX differentiates what has a `shard_map` in it (partition.py), so there Enzyme only passes by.

Meshes are written into each sharding, in the place of a symbol: `mesh<["data"=8]>`. So functions
can be cloned, renamed and moved to other modules without the meshes of these.
"""

from __future__ import annotations

import re

from jaxlib.mlir import ir
from jaxlib.mlir.dialects import stablehlo as hlo

from metagrad.compiler.dialect import functions

PLACED, MANUAL = "metagrad.placed", "metagrad.manual"
_CONSTRAINT, _MANUAL_COMPUTATION = "sdy.sharding_constraint", "sdy.manual_computation"
_SHARDINGS = ("in_shardings", "out_shardings", "manual_axes")
_SYMBOL = re.compile(r'@([\w.$-]+|"[^"]*")')


def hide(module: ir.Module) -> None:
    """Hides constraints and manual computations from Enzyme, in place.

    What else JAX writes of shardings goes: those of arguments, of typed keys and of calls of the
    host.
    """
    meshes = {
        op.attributes["sym_name"].value: str(op.attributes["mesh"]).removeprefix("#sdy.")
        for op in module.body.operations
        if op.operation.name == "sdy.mesh"
    }
    for function in list(module.body.operations):
        if function.operation.name == "sdy.mesh":
            function.operation.erase()
            continue
        _drop_of_arguments(function)
    # Inner ones first, so that a body that is moved has none any more.
    for op in reversed(functions.operations(module, _of_interest)):
        if op.name == _CONSTRAINT:
            _hide_constraint(op, meshes)
        elif op.name == _MANUAL_COMPUTATION:
            _hide_manual(module, op, meshes)
    for op in functions.operations(module, lambda name: not name.startswith("sdy.")):
        if "sdy.sharding" in op.attributes:
            del op.attributes["sdy.sharding"]


def show(module: ir.Module) -> None:
    """Puts back what `hide` hid, in place."""
    for op in functions.operations(module, functions.CUSTOM_CALL.__eq__):
        if _target(op) == PLACED:
            _show_constraint(op)
    names = set()
    # A manual computation in another is in the other's function, so one look is not enough.
    while calls := [
        op for op in functions.operations(module, functions.CUSTOM_CALL.__eq__) if _is_manual(op)
    ]:
        for op in calls:
            names.add(op.attributes["called_computations"][0].value)
            _show_manual(module, op)
    for name in names:
        if (function := functions.find(module, name)) is not None:
            function.operation.erase()


def _of_interest(name: str) -> bool:
    return name in (_CONSTRAINT, _MANUAL_COMPUTATION)


def _drop_of_arguments(function: ir.OpView) -> None:
    for group in ("arg_attrs", "res_attrs"):
        if group in function.attributes:
            kept = [
                {item.name: item.attr for item in attributes if item.name != "sdy.sharding"}
                for attributes in function.attributes[group]
            ]
            function.attributes[group] = ir.ArrayAttr.get(
                [ir.DictAttr.get(attributes) for attributes in kept]
            )


def _inlined(attribute: ir.Attribute, meshes: dict[str, str]) -> ir.StringAttr:
    """An attribute as text, each mesh in the place of its symbol."""
    text = _SYMBOL.sub(lambda match: meshes[match.group(1).strip('"')], str(attribute))
    return ir.StringAttr.get(text)


def _hide_constraint(op: ir.Operation, meshes: dict[str, str]) -> None:
    (operand,), (result,) = op.operands, op.results
    config = {"sharding": _inlined(op.attributes["sharding"], meshes)}
    with ir.InsertionPoint(op), op.location:
        if functions.is_float(operand.type):
            new: ir.Value = hlo.multiply(operand, _call(PLACED, result.type, [], config))
        else:
            new = _call(PLACED, result.type, [operand], config)
    result.replace_all_uses_with(new)
    op.erase()


def _call(target: str, ty: ir.Type, operands: list[ir.Value], config: dict) -> ir.Value:
    call = hlo.CustomCallOp([ty], operands, call_target_name=ir.StringAttr.get(target))
    call.attributes["api_version"] = ir.IntegerAttr.get(ir.IntegerType.get_signless(32), 4)
    call.attributes[functions.BACKEND_CONFIG] = ir.DictAttr.get(config)
    return call.result


def _hide_manual(module: ir.Module, op: ir.Operation, meshes: dict[str, str]) -> None:
    taken = {each.attributes["sym_name"].value for each in module.body.operations}
    name = functions.new_name("manual", taken)
    body = op.regions[0].blocks[0]

    def move(arguments: list[ir.Value]) -> list[ir.Value]:
        for old, new in zip(list(body.arguments), arguments, strict=True):
            old.replace_all_uses_with(new)
        *inside, end = list(body.operations)
        results = list(end.operands)
        into = ir.InsertionPoint.current.block
        end.operation.erase()
        for each in inside:
            into.append(each)
        return results

    functions.add_function(module, name, functions.types(body.arguments), move)
    config: dict[str, ir.Attribute] = {
        key: _inlined(op.attributes[key], meshes) for key in _SHARDINGS
    }
    with ir.InsertionPoint(op), op.location:
        call = hlo.CustomCallOp(
            functions.types(op.results),
            list(op.operands),
            call_target_name=ir.StringAttr.get(MANUAL),
            called_computations=ir.ArrayAttr.get([ir.FlatSymbolRefAttr.get(name)]),
            api_version=ir.IntegerAttr.get(ir.IntegerType.get_signless(32), 4),
        )
        call.attributes[functions.BACKEND_CONFIG] = ir.DictAttr.get(config)
    for old, new in zip(op.results, call.results, strict=True):
        old.replace_all_uses_with(new)
    op.erase()


def _target(op: ir.Operation) -> str:
    return op.attributes["call_target_name"].value


def _is_manual(op: ir.Operation) -> bool:
    return _target(op) == MANUAL


def _show_constraint(op: ir.Operation) -> None:
    sharding = ir.Attribute.parse(op.attributes[functions.BACKEND_CONFIG]["sharding"].value)
    (result,) = op.results
    if len(op.operands):
        _constrain(op, op.operands[0], result, sharding)
    else:
        uses = [use.owner.operation for use in result.uses]
        for product in (op for op in uses if op.name == "stablehlo.multiply"):
            left, right = product.operands
            _constrain(product, right if left == result else left, product.results[0], sharding)
            product.erase()
        if any(True for _ in result.uses):
            # A rewrite of Enzyme's took the product apart. The value is right without the
            # constraint, and XLA's partitioner places it.
            with ir.InsertionPoint(op), op.location:
                element = ir.FloatAttr.get(result.type.element_type, 1.0)
                one = hlo.constant(ir.DenseElementsAttr.get_splat(result.type, element))
            result.replace_all_uses_with(one)
    op.erase()


def _constrain(op: ir.Operation, value: ir.Value, result: ir.Value, sharding) -> None:
    with ir.InsertionPoint(op), op.location:
        placed = ir.Operation.create(
            _CONSTRAINT,
            results=[result.type],
            operands=[value],
            attributes={"sharding": sharding},
        ).result
    result.replace_all_uses_with(placed)


def _show_manual(module: ir.Module, op: ir.Operation) -> None:
    config = op.attributes[functions.BACKEND_CONFIG]
    name = op.attributes["called_computations"][0].value
    attributes = {key: ir.Attribute.parse(config[key].value) for key in _SHARDINGS}
    taken = {each.attributes["sym_name"].value for each in module.body.operations}
    copy = functions.clone(module, functions.get(module, name), functions.new_name("shown", taken))
    body = functions.body(copy)
    with ir.InsertionPoint(op), op.location:
        shown = ir.Operation.create(
            _MANUAL_COMPUTATION,
            results=functions.types(op.results),
            operands=list(op.operands),
            attributes=attributes,
            regions=1,
        )
    arguments = functions.types(body.arguments)
    block = shown.regions[0].blocks.append(*arguments, arg_locs=[op.location] * len(arguments))
    for old, new in zip(list(body.arguments), block.arguments, strict=True):
        old.replace_all_uses_with(new)
    *inside, end = list(body.operations)
    for each in inside:
        block.append(each)
    with ir.InsertionPoint(block), op.location:
        ir.Operation.create("sdy.return", operands=list(end.operands))
    end.operation.erase()
    copy.operation.erase()
    for result, new_result in zip(op.results, shown.results, strict=True):
        result.replace_all_uses_with(new_result)
    op.erase()
