"""Expands the `enzyme` ops into plain StableHLO with Enzyme's own passes, function by function, in the worker.

    %x = "enzyme.autodiff"(%a, %seed) {fn = @loss, ...}    ->    the ops of the backward pass

One run for each order.  Enzyme drops `enzyme.ignore_derivatives` when it differentiates, so the forward mode over a backward pass would differentiate what
was stopped.  In the first run `enzyme.fwddiff` is hidden in a custom call; between the runs what is held is held anew (stopped.py), and the op shows itself.

@update is not differentiated where it is run, so it is not sent: it stays as JAX lowered it, and the training run computes bit for bit what the user's
step does.  The loops around the pieces are written later, so Enzyme's optimiser never sees the slots.
"""

from __future__ import annotations

import re

import jaxlib.version
from jaxlib.mlir import ir
from jaxlib.mlir.dialects import func
from jaxlib.mlir.dialects import stablehlo as hlo

from metagrad.compiler.dialect import context, functions, stopped
from metagrad.compiler.enzyme import cache, library
from metagrad.compiler.enzyme.worker import WORKER, EnzymeError
from metagrad.runtime.stage_reports import stage

NAME = "expand"

_HIDDEN = "metagrad.fwddiff"

_INLINE = "inline{default-pipeline=canonicalize max-iterations=4}"


def _rewrite(pattern: str) -> list[str]:
    """One rewrite out of the many in Enzyme's `enzyme-hlo-opt`."""
    return [
        "enzyme-hlo-generate-td{patterns=" + pattern + "}",
        "transform-interpreter",
        "enzyme-hlo-remove-transform",
    ]


# Loops need this one before they are differentiated.  `enzyme-hlo-opt` as a whole must not run there: it has rewrites that keep values and change
# derivatives (`select(x > 0, x, 0)` becomes `max(x, 0)`, which has another one at 0).
_BEFORE = [_INLINE, *_rewrite("while_simplify<1>(1)"), "canonicalize", "cse"]

_DIFFERENTIATE = [
    'enzyme{postpasses="arith-raise{stablehlo=true},enzyme-batch-to-stablehlo,canonicalize,cse,canonicalize,'
    'remove-unnecessary-enzyme-ops,enzyme-simplify-math,canonicalize,cse,canonicalize"}',
    "canonicalize",
    "remove-unnecessary-enzyme-ops",
    "enzyme-simplify-math",
    "cse",
    "canonicalize",
]

# Drops enzymexla attributes, which JAX's parser does not know.
_READABLE = "drop-unsupported-attributes"

FIRST_ORDER = ",".join([*_BEFORE, *_DIFFERENTIATE, _READABLE])

# Forward mode makes scatters with several operands, often the same zeros twice, and XLA's CPU compiler gets those wrong.
SECOND_ORDER = ",".join(
    [
        *_BEFORE,
        *_DIFFERENTIATE,
        *_rewrite("split_variadic_scatter_op"),
        _INLINE,
        "cse",
        "canonicalize",
        "symbol-dce",
        _READABLE,
    ]
)


def run(module: ir.Module) -> None:
    """Expands @inner, @step_vjp and @outer_vjp in place.

    Raises:
      EnzymeError: Enzyme failed on a function, or what it made is not that function's derivative in StableHLO.
    """
    with module.context, ir.Location.unknown():
        for name in ("inner", "step_vjp", "outer_vjp"):
            function = functions.find(module, name)
            if function is not None and _has_enzyme(module, function):
                stage(f"differentiating @{name} with Enzyme")
                try:
                    _expand(module, function)
                except EnzymeError as error:
                    error.function = name
                    raise
        stopped.erase(module)


def _expand(module: ir.Module, function: func.FuncOp) -> None:
    first = _enzyme(_alone(module, function), function, FIRST_ORDER)
    second = _enzyme(_between_orders(first), function, SECOND_ORDER)
    _replace(module, function, second)


def _enzyme(alone: ir.Module, function: func.FuncOp, pipeline: str) -> ir.Module:
    """What Enzyme's pipeline makes of a module whose public function stands for `function`: from the cache, or by the worker.

    Nothing that comes from outside is believed: it must be MLIR and hold a function of that name and type.  Only such a text goes into the cache.
    """
    name, text = function.name.value, context.text(alone)
    key = cache.key(library.identity(), jaxlib.version.__version__, name, pipeline, text)
    remembered = cache.load(key)
    if remembered is not None:
        try:
            return _read(remembered, function)
        except EnzymeError:
            pass
    answer = WORKER.run(name, text, pipeline)
    module = _read(answer, function)
    # Printed anew, without the locations in it, which are no use to anyone and half of the text.
    cache.store(key, context.text(module))
    return module


def _read(answer: str, function: func.FuncOp) -> ir.Module:
    name = function.name.value
    try:
        module = ir.Module.parse(answer)
    except (ir.MLIRError, ValueError) as error:
        raise EnzymeError(
            f"Enzyme answered something that is not MLIR on @{name}: {error}"
        ) from None
    _publish(module, name)
    made = functions.find(module, name)
    if made is None:
        raise EnzymeError(f"Enzyme answered with a module that has no function @{name}")
    if made.type != function.type:
        raise EnzymeError(
            f"Enzyme answered with a function @{name} of type {made.type}, and it must be {function.type}"
        )
    return module


def _has_enzyme(module: ir.Module, function: func.FuncOp) -> bool:
    return any(
        op.operation.name in ("enzyme.autodiff", "enzyme.fwddiff")
        for name in functions.reachable(module, [function.name.value])
        for op in functions.walk(functions.body(functions.find(module, name)))
    )


def _alone(module: ir.Module, function: func.FuncOp) -> ir.Module:
    """A module that holds `function` and what it needs, and nothing else; forward mode is hidden."""
    alone = ir.Module.create()
    reached = functions.reachable(module, [function.name.value])
    with ir.InsertionPoint(alone.body):
        for op in module.body.operations:
            if not isinstance(op, func.FuncOp) or op.name.value in reached:
                op.operation.clone()
    _publish(alone, function.name.value)
    for op in _ops(alone):
        if op.operation.name == "enzyme.fwddiff":
            _hide(op)
    return alone


def _between_orders(module: ir.Module) -> ir.Module:
    stopped.renew(module)
    for op in _ops(module):
        if isinstance(op, hlo.CustomCallOp) and op.call_target_name.value == _HIDDEN:
            _show(op)
    return module


def _publish(module: ir.Module, name: str) -> None:
    """Makes @name the module's one public function. Enzyme gives it back private, and numbered."""
    for op in module.body.operations:
        symbol = op.attributes["sym_name"].value
        ours = re.fullmatch(rf"{re.escape(name)}(_\d+)?", symbol) is not None
        op.attributes["sym_visibility"] = ir.StringAttr.get("public" if ours else "private")
        if ours:
            op.attributes["sym_name"] = ir.StringAttr.get(name)


def _hide(op: ir.OpView) -> None:
    said = {name: op.attributes[name] for name in ("activity", "ret_activity")}
    with ir.InsertionPoint(op), op.location:
        hidden = hlo.CustomCallOp(
            functions.types(op.results),
            list(op.operands),
            call_target_name=ir.StringAttr.get(_HIDDEN),
            called_computations=ir.ArrayAttr.get([op.attributes["fn"]]),
            api_version=ir.IntegerAttr.get(ir.IntegerType.get_signless(32), 4),
        )
        # As text: jaxlib's parser and Enzyme's need not agree on how an activity prints.
        hidden.attributes["mhlo.backend_config"] = ir.DictAttr.get(
            {name: ir.StringAttr.get(str(attr)) for name, attr in said.items()}
        )
    _exchange(op, hidden.results)


def _show(op: hlo.CustomCallOp) -> None:
    said = op.attributes["mhlo.backend_config"]
    attributes = {
        name: ir.Attribute.parse(said[name].value) for name in ("activity", "ret_activity")
    }
    attributes["fn"] = op.attributes["called_computations"][0]
    with ir.InsertionPoint(op), op.location:
        shown = ir.Operation.create(
            "enzyme.fwddiff",
            results=functions.types(op.results),
            operands=list(op.operands),
            attributes=attributes,
        )
    _exchange(op, shown.results)


def _exchange(op: ir.OpView, results) -> None:
    for old, new in zip(op.results, results):
        old.replace_all_uses_with(new)
    op.operation.erase()


def _ops(module: ir.Module) -> list[ir.OpView]:
    return [
        op for function in module.body.operations for op in functions.walk(functions.body(function))
    ]


def _replace(module: ir.Module, function: func.FuncOp, made: ir.Module) -> None:
    """Puts the expanded function in the place of `function`."""
    name = function.name.value
    others = [
        op.attributes["sym_name"].value
        for op in made.body.operations
        if op.attributes["sym_name"].value != name
    ]
    if others:
        raise EnzymeError(
            f"Enzyme's pipeline left functions beside @{name} that are not inlined: {', '.join(others)}"
        )
    new = functions.find(made, name)
    left = [op.operation.name for op in functions.walk(functions.body(new))]
    left = [op for op in left if op.startswith("enzyme") and op != stopped.IGNORE]
    if left:
        raise EnzymeError(f"{left[0]} is left in @{name} after Enzyme's pipeline")
    parts = [functions.find(module, part) for part in functions.reachable(module, [name])]
    copy = new.operation.clone(ip=ir.InsertionPoint(function))
    function.operation.erase()
    copy.attributes["sym_visibility"] = ir.StringAttr.get("private")
    if not any(functions.BY_JAX in part.attributes for part in parts):
        copy.attributes[functions.BY_ENZYME] = ir.UnitAttr.get()
