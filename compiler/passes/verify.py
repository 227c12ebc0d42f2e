"""Refuses a module that the passes would trip over, with a message that names the op.

JAX cannot make such a module through metagrad's frontend; a `.mlir` file given to `metagrad-opt`
can hold anything.
"""

from __future__ import annotations

from jaxlib.mlir import ir
from jaxlib.mlir.dialects import func

from metagrad.compiler.dialect import enzyme, functions, metagrad
from metagrad.compiler.dialect.functions import is_float
from metagrad.compiler.dialect.metagrad import GRAD, Gradient, Layout

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
        for op in functions.operations(
            function, lambda name: name == GRAD or name.startswith("enzyme.")
        ):
            name = op.name
            _check_attributes(op)
            if name == GRAD:
                _check_place(function, op)
                _check_grad(module, op)
            elif name in enzyme.DERIVATIVES:
                _check_enzyme(module, op)
            elif name == enzyme.IGNORE_DERIVATIVES and functions.types(
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
        if attribute.startswith(metagrad.PREFIX) and attribute not in metagrad.MARKS:
            _named(module, function, attribute)


def _check_place(function: func.FuncOp, op) -> None:
    """`cut` looks for gradients there, and would leave others where they are."""
    if function.name.value not in ("step", "inner"):
        raise VerificationError(
            f"'{GRAD}' op stands in @{function.name.value}; only @step, and after 'cut' @inner, "
            "may hold one"
        )
    if op.operation.parent != function.operation:
        raise VerificationError(
            f"'{GRAD}' op stands in a region of '{op.operation.parent.name}'; it must stand in the "
            "function's own body"
        )


def _check_attributes(op) -> None:
    """MLIR reads `<{fn = @f}>` as properties.

    Of an op that this context does not know they can be looked up but not listed, and a pass would
    lose them.
    """
    listed = set(op.attributes)
    for name in (*Gradient.ATTRIBUTES, "fn", "activity", "ret_activity", "width"):
        if name in op.attributes and name not in listed:
            raise VerificationError(
                f"'{op.operation.name}' op has its attributes as properties, in `<{{..}}>`; write "
                f"`{{..}}`, without the angle brackets"
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
                f"'{GRAD}' op: wrt names operand {i} of type {op.operands[i].type}, which has no "
                "derivative"
            )
    if len(set(wrt)) != len(wrt):
        raise VerificationError(f"'{GRAD}' op: wrt names an operand twice: {wrt}")
    _check_lists(op)
    for derivative in Gradient.DERIVATIVES:
        if derivative in op.attributes:
            _named(module, op, derivative)
    expected = [*loss.type.results, *(op.operands[i].type for i in wrt)]
    if functions.types(op.results) != expected:
        raise VerificationError(
            f"'{GRAD}' op must return the results of @{loss.name.value} and then one gradient for "
            "each of wrt: "
            f"({', '.join(map(str, expected))})"
        )


def _check_lists(op) -> None:
    """What the frontend may add: the results that are passed on, the operands in which a derivative
    is wanted.
    """
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
                f"'{name}' op: `{attribute}` must have {len(expected)} entries, one for each of "
                f"@{target.name.value}'s"
            )


def _indices(op, attribute: str, holding: str = "the operands to differentiate") -> list[int]:
    indices = None
    if attribute in op.attributes:
        indices = op.attributes[attribute]
    if not isinstance(indices, ir.ArrayAttr) or not all(
        isinstance(element, ir.IntegerAttr) for element in indices
    ):
        raise VerificationError(
            f"'{op.operation.name}' op has no `{attribute}`; it needs {holding}, like {attribute} "
            "= [0]"
        )
    return [element.value for element in indices]


def _named(module: ir.Module, op, attribute: str) -> func.FuncOp:
    name = op.operation.name
    if attribute not in op.attributes or not isinstance(
        op.attributes[attribute], ir.FlatSymbolRefAttr
    ):
        raise VerificationError(
            f"'{name}' op has no `{attribute}`; it must name a function of the module"
        )
    symbol = op.attributes[attribute].value
    function = functions.find(module, symbol)
    if function is None:
        raise VerificationError(
            f"'{name}' op: `{attribute}` names @{symbol}, and there is no such function"
        )
    return function


def _check_operands(op, target: func.FuncOp, operands) -> None:
    if functions.types(operands) != list(target.type.inputs):
        raise VerificationError(
            f"'{op.operation.name}' op: @{target.name.value} takes "
            f"({', '.join(map(str, target.type.inputs))}), "
            f"and is given ({', '.join(map(str, functions.types(operands)))})"
        )


def _check_signatures(module: ir.Module) -> None:
    """Of a module that says which argument is what: that its functions fit, and that it says the
    rest.
    """
    if metagrad.ARGUMENTS not in module.operation.attributes:
        return
    unknown = [name for name in metagrad.wrt_of(module) if name not in ("state", "meta", "batches")]
    if unknown:
        raise VerificationError(
            f'{metagrad.WRT} names "{unknown[0]}"; it can name "state", "meta" and "batches"'
        )
    layout = Layout.of(module)
    # The update is what is left of the step when it is cut.
    step = functions.find(module, "step") or functions.find(module, "update")
    if step is not None:
        _check_step(step, layout)
        _check_outer(functions.find(module, "outer"), step, layout)
        _check_between_steps(step, layout, metagrad.between_steps_of(module))
        _check_leaves(module, step, layout)


def _check_step(step: func.FuncOp, layout: Layout) -> None:
    name, inputs = step.name.value, list(step.type.inputs)
    if len(inputs) != layout.step if name == "step" else len(inputs) < layout.step:
        raise VerificationError(
            f"@{name} takes {len(inputs)} arguments, and {metagrad.ARGUMENTS} says {layout.step}"
            + (" and then the results of the gradients" if name == "update" else "")
        )
    if list(step.type.results)[: layout.state] != inputs[: layout.state]:
        raise VerificationError(
            f"@{name} must return a state of the types that it is given, first of its results"
        )


def _check_between_steps(step: func.FuncOp, layout: Layout, between_steps: list[int]) -> None:
    _check_state_leaves(metagrad.BETWEEN_STEPS, layout, between_steps)
    for i in between_steps:
        if not is_float(step.type.inputs[i]):
            raise VerificationError(
                f"{metagrad.BETWEEN_STEPS} lists leaf {i} of the state, of type "
                f"{step.type.inputs[i]}, which has no derivative"
            )


def _check_state_leaves(attribute: str, layout: Layout, leaves: list[int]) -> None:
    for i in leaves:
        if not 0 <= i < layout.state:
            raise VerificationError(
                f"{attribute} lists leaf {i} of the state, and there are {layout.state}"
            )
    if leaves != sorted(set(leaves)):
        raise VerificationError(f"{attribute} must list leaves once and ascending, not {leaves}")


def _check_leaves(module: ir.Module, step: func.FuncOp, layout: Layout) -> None:
    """The leaves that need no slot, and the function that advances some of them."""
    unchanged, counters = (
        metagrad.leaves_of(module, name) for name in (metagrad.UNCHANGED, metagrad.COUNTERS)
    )
    _check_state_leaves(metagrad.UNCHANGED, layout, unchanged)
    _check_state_leaves(metagrad.COUNTERS, layout, counters)
    if both := sorted(set(unchanged) & set(counters)):
        raise VerificationError(
            f"{metagrad.UNCHANGED} and {metagrad.COUNTERS} both list leaf {both[0]} of the state"
        )
    if not counters:
        return
    advance = functions.find(module, "counters")
    if advance is None:
        raise VerificationError(
            f"{metagrad.COUNTERS} lists leaves of the state, and there is no function @counters "
            "that takes the state and meta and returns their new values"
        )
    operands = list(step.type.inputs)[: layout.state + layout.meta]
    results = [step.type.inputs[i] for i in counters]
    if list(advance.type.inputs) != operands or list(advance.type.results) != results:
        raise VerificationError(
            f"@counters must take the state and meta, ({', '.join(map(str, operands))}), and "
            f"return the leaves that {metagrad.COUNTERS} lists, ({', '.join(map(str, results))})"
        )


def _check_outer(outer: func.FuncOp | None, step: func.FuncOp, layout: Layout) -> None:
    if outer is None:
        return
    if list(outer.type.inputs)[: layout.state] != list(step.type.inputs)[: layout.state]:
        raise VerificationError("@outer must take the state first")
    value = outer.type.results[0] if outer.type.results else None
    if value is None or not is_float(value) or len(value.shape) > 1 or 0 in value.shape:
        raise VerificationError(
            "@outer must return a floating-point scalar first, or a vector of queries"
        )
