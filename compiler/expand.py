"""Expands the `enzyme` ops into plain StableHLO with Enzyme's own pipeline, function by function, in the worker.

    %x = "enzyme.autodiff"(%a, %seed) {fn = @loss, ...}    ->    the ops of the backward pass

@metagradient itself is not sent: Enzyme's optimiser has no business in our loops, whose slots must stay in place.  @update is not differentiated where
it is run, so it stays as JAX lowered it, and the training run computes bit for bit what the user's step does.
"""

from __future__ import annotations

from jaxlib.mlir import ir
from jaxlib.mlir.dialects import func

from metagrad.compiler import context, functions
from metagrad.compiler.worker import WORKER

NAME = "expand"

_INLINE = "inline{default-pipeline=canonicalize max-iterations=4}"

# Simplifying before differentiating is what makes loops work; `arith-raise` and what follows clean up the derivative while Enzyme still knows what it made.
_DIFFERENTIATE = (
    'enzyme{postpasses="arith-raise{stablehlo=true},enzyme-batch-to-stablehlo,canonicalize,cse,canonicalize,'
    'remove-unnecessary-enzyme-ops,enzyme-simplify-math,canonicalize,cse,canonicalize"}'
)

PIPELINE = ",".join(
    [
        _INLINE,
        "enzyme-hlo-opt",
        "canonicalize",
        "cse",
        _DIFFERENTIATE,
        "canonicalize",
        "remove-unnecessary-enzyme-ops",
        "enzyme-simplify-math",
        "enzyme-hlo-opt",
        _INLINE,
        "cse",
        "canonicalize",
        "symbol-dce",
        # drops enzymexla attributes, which JAX's parser does not know
        "drop-unsupported-attributes",
    ]
)


def run(module: ir.Module) -> None:
    expanded = {}
    for function in list(module.body.operations):
        if isinstance(function, func.FuncOp) and function.name.value in ("inner", "step_vjp", "outer_vjp"):
            if _has_enzyme(module, function):
                name = function.name.value
                expanded[name] = WORKER.run(name, _alone(module, name), PIPELINE)
    for name, text in expanded.items():
        _replace(module, name, text)
    _forget_stopped_gradients(module)


def _has_enzyme(module: ir.Module, function: func.FuncOp) -> bool:
    seen, queue = set(), [function.name.value]
    while queue:
        name = queue.pop()
        if name in seen:
            continue
        seen.add(name)
        found = functions.find(module, name)
        if any(op.operation.name.startswith("enzyme.") for op in functions.walk(functions.body(found))):
            return True
        queue += functions.symbols_used(found)
    return False


def _alone(module: ir.Module, name: str) -> str:
    """The text of a module that holds @name and what it needs, and nothing else."""
    with module.context, ir.Location.unknown():
        alone = ir.Module.parse(context.text(module))
        functions.drop_unreachable(alone, [name])
        for op in alone.body.operations:
            visible = "public" if op.attributes["sym_name"].value == name else "private"
            op.attributes["sym_visibility"] = ir.StringAttr.get(visible)
        for attribute in list(alone.operation.attributes):
            del alone.operation.attributes[attribute]
        return context.text(alone)


def _replace(module: ir.Module, name: str, text: str) -> None:
    """Puts the expanded function, which Enzyme gave another name, in the place of @name."""
    with module.context, ir.Location.unknown():
        made = ir.Module.parse(text)
        made_functions = [op for op in made.body.operations if isinstance(op, func.FuncOp)]
        if len(made_functions) != 1:
            names = ", ".join(op.name.value for op in made_functions)
            raise ValueError(f"pass {NAME!r}: @{name} came back as {len(made_functions)} functions ({names}), one was expected")
        old = functions.find(module, name)
        new = made_functions[0].operation.clone(ip=ir.InsertionPoint(old))
        old.operation.erase()
        new.attributes["sym_name"] = ir.StringAttr.get(name)
        new.attributes["sym_visibility"] = ir.StringAttr.get("private")
    left = [op.operation.name for op in functions.walk(functions.body(functions.find(module, name))) if op.operation.name.startswith("enzyme")]
    if left:
        raise ValueError(f"pass {NAME!r}: {left[0]} is left in @{name} after Enzyme's pipeline")


def _forget_stopped_gradients(module: ir.Module) -> None:
    """Outside of a differentiated function `enzyme.ignore_derivatives` is the identity."""
    for function in module.body.operations:
        for op in list(functions.walk(functions.body(function))):
            if op.operation.name == "enzyme.ignore_derivatives":
                op.results[0].replace_all_uses_with(op.operands[0])
                op.operation.erase()
