"""Expands the `enzyme` ops into plain StableHLO with Enzyme's own passes, by function, in the
worker.

    %x = "enzyme.autodiff"(%a, %seed) {fn = @loss, ...}    ->    the ops of the backward pass

One run for each order that a function has. Enzyme drops `enzyme.ignore_derivatives` when it
differentiates, so the forward mode over a backward pass would differentiate what was stopped. In
the first run `enzyme.fwddiff` is hidden in a custom call; between the runs what is stopped is
stopped again (stopped.py), and the op is put back.

@update is not differentiated where it is run, so it is not sent: it stays as JAX lowered it, and
the training run computes bit for bit what the user's step does. The loops around the pieces are
written later, so Enzyme's optimiser never sees the slots.
"""

from __future__ import annotations

import re
from collections.abc import Generator

import jaxlib.version
from jaxlib.mlir import ir
from jaxlib.mlir.dialects import func
from jaxlib.mlir.dialects import stablehlo as hlo

from metagrad.compiler.dialect import (
    apart,
    context,
    enzyme,
    functions,
    metagrad,
    placements,
    stopped,
)
from metagrad.compiler.enzyme import cache, library, side_by_side
from metagrad.compiler.enzyme.pipelines import FIRST_ORDER, ONLY_ORDER, SECOND_ORDER
from metagrad.compiler.enzyme.side_by_side import Job, Request
from metagrad.compiler.enzyme.worker import EnzymeError

NAME = "expand"


def run(module: ir.Module) -> None:
    """Expands @inner, @step_vjp and @outer_vjp in place.

    Raises:
      EnzymeError: Enzyme failed on a function, or what it made is not that function's derivative in
        StableHLO.
    """
    with module.context, ir.Location.unknown():
        jobs = {}
        for name in ("inner", "step_vjp", "outer_vjp"):
            function = functions.find(module, name)
            if function is not None and _has_enzyme(module, function):
                jobs[name] = _expand(module, function)
        side_by_side.run(jobs)
        stopped.remove_marks(module)
        placements.show(module)


def _expand(module: ir.Module, function: func.FuncOp) -> Job:
    alone = _alone(module, function)
    if any(_hidden(alone)):
        first = yield from _enzyme(alone, function, FIRST_ORDER)
        expanded = yield from _enzyme(between_orders(first), function, SECOND_ORDER)
    else:
        expanded = yield from _enzyme(alone, function, ONLY_ORDER)
    _replace(module, function, expanded)


def _enzyme(
    alone: ir.Module, function: func.FuncOp, pipeline: str
) -> Generator[Request, str, ir.Module]:
    """What Enzyme's pipeline makes of a module whose public function stands for `function`: from
    the cache, or by the worker.

    Nothing that comes from outside is believed: it must be MLIR and hold a function of that name
    and type. Only such a text goes into the cache.
    """
    name, text = function.name.value, context.text(alone)
    key = cache.key(library.identity(), jaxlib.version.__version__, name, pipeline, text)
    remembered = cache.load(key)
    if remembered is not None:
        try:
            return _read(remembered, function)
        except EnzymeError:
            pass
    answer = yield Request(name, text, pipeline)
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
    function_by_enzyme = functions.find(module, name)
    if function_by_enzyme is None:
        raise EnzymeError(f"Enzyme answered with a module that has no function @{name}")
    if function_by_enzyme.type != function.type:
        raise EnzymeError(
            f"Enzyme answered with a function @{name} of type {function_by_enzyme.type}, and it "
            f"must be {function.type}"
        )
    return module


def _has_enzyme(module: ir.Module, function: func.FuncOp) -> bool:
    reached = functions.reachable(module, [function.name.value])
    return any(
        functions.operations(op, enzyme.DERIVATIVES.__contains__)
        for op in module.body.operations
        if op.attributes["sym_name"].value in reached
    )


def _alone(module: ir.Module, function: func.FuncOp) -> ir.Module:
    """A module of `function` and what it needs, and nothing else. Forward mode is hidden."""
    alone = ir.Module.create()
    reached = functions.reachable(module, [function.name.value])
    with ir.InsertionPoint(alone.body):
        for op in module.body.operations:
            if not isinstance(op, func.FuncOp) or op.name.value in reached:
                op.operation.clone()
    _publish(alone, function.name.value)
    apart.hide(alone, functions.get(alone, function.name.value))
    for forward in functions.operations(alone, enzyme.FORWARD_MODE.__eq__):
        hide(forward)
    return alone


def between_orders(module: ir.Module) -> ir.Module:
    """Makes what the first run left ready for the second: what is stopped is stopped again, and
    hidden ops are put back.
    """
    stopped.ignore_marked_again(module)
    for op in _hidden(module):
        _show(op)
    return module


def _hidden(module: ir.Module) -> list[ir.Operation]:
    """The custom calls in which an `enzyme` op is hidden."""
    calls = functions.operations(module, functions.CUSTOM_CALL.__eq__)
    return [op for op in calls if op.attributes["call_target_name"].value == metagrad.HIDDEN]


def _publish(module: ir.Module, name: str) -> None:
    """Makes @name the module's one public function. Enzyme gives it back private, and numbered."""
    for op in module.body.operations:
        symbol = op.attributes["sym_name"].value
        ours = re.fullmatch(rf"{re.escape(name)}(_\d+)?", symbol) is not None
        op.attributes["sym_visibility"] = ir.StringAttr.get("public" if ours else "private")
        if ours:
            op.attributes["sym_name"] = ir.StringAttr.get(name)


def hide(op: ir.Operation) -> list[ir.Value]:
    """Hides an `enzyme` op in a custom call, so that the first run leaves it for the second.

    Returns the call's results.
    """
    with ir.InsertionPoint(op), op.location:
        hidden = hlo.CustomCallOp(
            functions.types(op.results),
            list(op.operands),
            call_target_name=ir.StringAttr.get(metagrad.HIDDEN),
            called_computations=ir.ArrayAttr.get([op.attributes["fn"]]),
            api_version=ir.IntegerAttr.get(ir.IntegerType.get_signless(32), 4),
        )
        # As text: jaxlib's parser and Enzyme's need not agree on how an activity prints.
        config: dict[str, ir.Attribute] = {
            name: ir.StringAttr.get(str(op.attributes[name])) for name in _ACTIVITIES
        }
        config["op"] = ir.StringAttr.get(op.name)
        hidden.attributes[functions.BACKEND_CONFIG] = ir.DictAttr.get(config)
    functions.exchange(op, hidden.results)
    return list(hidden.results)


_ACTIVITIES = ("activity", "ret_activity")


def _show(op: ir.Operation) -> None:
    config = op.attributes[functions.BACKEND_CONFIG]
    attributes = {name: ir.Attribute.parse(config[name].value) for name in _ACTIVITIES}
    attributes["fn"] = op.attributes["called_computations"][0]
    with ir.InsertionPoint(op), op.location:
        shown = ir.Operation.create(
            config["op"].value,
            results=functions.types(op.results),
            operands=list(op.operands),
            attributes=attributes,
        )
    functions.exchange(op, shown.results)


def _replace(module: ir.Module, function: func.FuncOp, expanded: ir.Module) -> None:
    """Puts the expanded function in the place of `function`."""
    name = function.name.value
    _take_comparators(module, name, expanded)
    new = functions.get(expanded, name)
    apart.show(new)
    left = functions.operations(
        new, lambda op: op.startswith("enzyme") and op != enzyme.IGNORE_DERIVATIVES
    )
    if left:
        raise EnzymeError(f"{left[0].name} is left in @{name} after Enzyme's pipeline")
    parts = [functions.get(module, part) for part in functions.reachable(module, [name])]
    by_jax = any(metagrad.BY_JAX in part.attributes for part in parts)
    copy = new.operation.clone(ip=ir.InsertionPoint(function))
    function.operation.erase()
    copy.attributes["sym_visibility"] = ir.StringAttr.get("private")
    if not by_jax:
        copy.attributes[metagrad.BY_ENZYME] = ir.UnitAttr.get()


def _take_comparators(module: ir.Module, name: str, expanded: ir.Module) -> None:
    """Moves the functions that custom calls in @name refer to into the module, under new names.

    `approx_top_k` has one, which compares two elements, and a `shard_map` its body. Any other
    function should have been inlined.
    """
    others = {
        op.name.value: op
        for op in expanded.body.operations
        if isinstance(op, func.FuncOp) and op.name.value != name
    }
    referring = functions.operations(functions.get(expanded, name), functions.CUSTOM_CALL.__eq__)
    comparators = functions.reachable(
        expanded, [symbol for op in referring for symbol in functions.symbols_of(op)]
    )
    left = [other for other in others if other not in comparators]
    if left:
        raise EnzymeError(
            f"Enzyme's pipeline left functions beside @{name} that are not inlined: "
            f"{', '.join(left)}"
        )
    taken = {op.attributes["sym_name"].value for op in module.body.operations} | set(others)
    names = {}
    for other in others:
        names[other] = functions.new_name(f"{name}_{other}", taken)
        taken.add(names[other])
    functions.rename(expanded, names)
    with ir.InsertionPoint(module.body):
        for comparator in others.values():
            comparator.operation.clone()
