"""Refuses a module that the passes would trip over, with a message that names the op.

JAX cannot make such a module through metagrad's frontend; a `.mlir` file given to `metagrad-opt` can hold anything.
"""

from __future__ import annotations

from jaxlib.mlir import ir
from jaxlib.mlir.dialects import func

from metagrad.compiler.dialect import functions
from metagrad.compiler.dialect.functions import Arguments, is_float
from metagrad.compiler.passes.raise_gradients import ATTRIBUTES, GRAD

NAME = "verify"


class VerificationError(ValueError):
    """An op of a module is not what the passes expect. The message names it."""


def run(module: ir.Module) -> None:
    """Checks the whole module.

    Raises:
      VerificationError: for the first op that is wrong.
    """
    try:
        module.operation.verify()
    except ir.MLIRError as error:
        raise VerificationError(str(error)) from None
    for function in module.body.operations:
        if not isinstance(function, func.FuncOp):
            raise VerificationError(
                f"'{function.operation.name}' op stands at the top of the module; only functions do"
            )
        _check_function(module, function)
        for op in functions.walk(functions.body(function)):
            name = op.operation.name
            if name == GRAD or name.startswith("enzyme."):
                _check_attributes(op)
            if name == GRAD:
                _check_place(function, op)
                _check_grad(module, op)
            elif name in ("enzyme.autodiff", "enzyme.fwddiff"):
                _check_enzyme(module, op)
            elif name == "enzyme.ignore_derivatives" and functions.types(
                op.operands
            ) != functions.types(op.results):
                raise VerificationError(
                    f"'{name}' op must return what it is given, with the same type"
                )
    _check_signatures(module)


def _check_function(module: ir.Module, function: func.FuncOp) -> None:
    name = function.name.value
    if function.is_external:
        raise VerificationError(
            f"'func.func' op: @{name} has no body; a module must hold all that it calls"
        )
    for attribute in function.attributes:
        if attribute.startswith("metagrad.") and attribute not in functions.MARKS:
            _named(module, function, attribute)


def _check_place(function: func.FuncOp, op) -> None:
    """`cut` looks for gradients there, and would leave others where they are."""
    if function.name.value not in ("step", "inner"):
        raise VerificationError(
            f"'{GRAD}' op stands in @{function.name.value}; only @step, and after 'cut' @inner, may hold one"
        )
    if op.operation.parent != function.operation:
        raise VerificationError(
            f"'{GRAD}' op stands in a region of '{op.operation.parent.name}'; it must stand in the function's own body"
        )


def _check_attributes(op) -> None:
    """MLIR reads `<{fn = @f}>` as properties. Of an op that this context does not know they can be looked up but not listed, and a pass would lose them."""
    listed = set(op.attributes)
    for name in (*ATTRIBUTES, "fn", "activity", "ret_activity", "width"):
        if name in op.attributes and name not in listed:
            raise VerificationError(
                f"'{op.operation.name}' op has its attributes as properties, in `<{{..}}>`; write `{{..}}`, without the angle brackets"
            )


def _check_grad(module: ir.Module, op) -> None:
    loss = _named(module, op, "loss")
    _check_operands(op, loss, list(op.operands))
    value = loss.type.results[0] if loss.type.results else None
    if value is None or not is_float(value):
        raise VerificationError(
            f"'{GRAD}' op: @{loss.name.value} must return a floating-point value first, not {value}"
        )
    wrt = _indices(op, "wrt")
    for i in wrt:
        if not 0 <= i < len(op.operands):
            raise VerificationError(
                f"'{GRAD}' op: wrt names operand {i}, and there are {len(op.operands)}"
            )
        if not is_float(op.operands[i].type):
            raise VerificationError(
                f"'{GRAD}' op: wrt names operand {i} of type {op.operands[i].type}, which has no derivative"
            )
    if len(set(wrt)) != len(wrt):
        raise VerificationError(f"'{GRAD}' op: wrt names an operand twice: {wrt}")
    _check_lists(op)
    for derivative in ("vjp", "grad", "grad_vjp"):
        if derivative in op.attributes:
            _named(module, op, derivative)
    expected = [*loss.type.results, *(op.operands[i].type for i in wrt)]
    if functions.types(op.results) != expected:
        raise VerificationError(
            f"'{GRAD}' op must return the results of @{loss.name.value} and then one gradient for each of wrt: "
            f"({', '.join(map(str, expected))})"
        )


def _check_lists(op) -> None:
    """What the frontend may add: the results that are passed on, the operands in which a derivative is wanted."""
    listed = {
        name: _indices(op, name, f"the {what}s by index")
        for name, what in (("kept", "result"), ("active", "operand"))
        if name in op.attributes
    }
    for name, what, values in (("kept", "result", op.results), ("active", "operand", op.operands)):
        for i in listed.get(name, ()):
            if not 0 <= i < len(values):
                raise VerificationError(
                    f"'{GRAD}' op: {name} lists {what} {i}, and there are {len(values)}"
                )
    for i, result in enumerate(op.results):
        if i not in listed.get("kept", [i]) and any(True for _ in result.uses):
            raise VerificationError(f"'{GRAD}' op: kept does not list result {i}, which is read")


def _check_enzyme(module: ir.Module, op) -> None:
    name = op.operation.name
    target = _named(module, op, "fn")
    for attribute, expected in (
        ("activity", target.type.inputs),
        ("ret_activity", target.type.results),
    ):
        if attribute not in op.attributes or len(op.attributes[attribute]) != len(expected):
            raise VerificationError(
                f"'{name}' op: `{attribute}` must have {len(expected)} entries, one for each of @{target.name.value}'s"
            )


def _indices(op, attribute: str, holding: str = "the operands to differentiate") -> list[int]:
    given = op.attributes[attribute] if attribute in op.attributes else None
    if not isinstance(given, ir.ArrayAttr) or not all(
        isinstance(element, ir.IntegerAttr) for element in given
    ):
        raise VerificationError(
            f"'{op.operation.name}' op has no `{attribute}`; it needs {holding}, like {attribute} = [0]"
        )
    return [element.value for element in given]


def _named(module: ir.Module, op, attribute: str) -> func.FuncOp:
    name = op.operation.name
    if attribute not in op.attributes or not isinstance(
        op.attributes[attribute], ir.FlatSymbolRefAttr
    ):
        raise VerificationError(
            f"'{name}' op has no `{attribute}`; it must name a function of the module"
        )
    symbol = op.attributes[attribute].value
    found = functions.find(module, symbol)
    if found is None:
        raise VerificationError(
            f"'{name}' op: `{attribute}` names @{symbol}, and there is no such function"
        )
    return found


def _check_operands(op, target: func.FuncOp, operands) -> None:
    if functions.types(operands) != list(target.type.inputs):
        raise VerificationError(
            f"'{op.operation.name}' op: @{target.name.value} takes ({', '.join(map(str, target.type.inputs))}), "
            f"and is given ({', '.join(map(str, functions.types(operands)))})"
        )


def _check_signatures(module: ir.Module) -> None:
    step, outer = functions.find(module, "step"), functions.find(module, "outer")
    if step is None or "metagrad.arguments" not in module.operation.attributes:
        return
    unknown = [
        name for name in functions.wrt_of(module) if name not in ("state", "meta", "batches")
    ]
    if unknown:
        raise VerificationError(
            f'metagrad.wrt names "{unknown[0]}"; it can name "state", "meta" and "batches"'
        )
    n = Arguments.of(module)
    if len(step.type.inputs) != n.step:
        raise VerificationError(
            f"@step takes {len(step.type.inputs)} arguments, and metagrad.arguments says {n.step}"
        )
    if list(step.type.results)[: n.state] != list(step.type.inputs)[: n.state]:
        raise VerificationError(
            "@step must return a state of the types that it is given, first of its results"
        )
    if (
        outer is not None
        and list(outer.type.inputs)[: n.state] != list(step.type.inputs)[: n.state]
    ):
        raise VerificationError("@outer must take the state first")
    if outer is not None and (
        not outer.type.results or not is_float(outer.type.results[0]) or outer.type.results[0].shape
    ):
        raise VerificationError("@outer must return a floating-point scalar first")
