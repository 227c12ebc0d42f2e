"""Cuts the inner gradients out of the step.

    func @step(%s, %z, %b) {
      %x = <model input>(%s, %b)
      %g = "metagrad.grad"(%x) {loss = @loss}
      %n = <optimiser>(%s, %g)
      return %n
    }
->
    func @update(%s, %z, %b, %g) { return <optimiser>(%s, %g) }
    func @inputs_0(%s, %z, %b)   { return <model input>(%s, %b) }
    func @inner(%s, %z, %b) {
      %x = call @inputs_0(%s, %z, %b)
      %g = "metagrad.grad"(%x) {loss = @loss}
      return %g
    }
    func @step(%s, %z, %b)       { %g = call @inner; call @update }

With m gradients there are m functions @inputs_i; the i-th also takes the results of the gradients
before it, so that a step whose second gradient depends on its first (SAM, an inner loop unrolled by
hand) is cut as well. Results that nothing reads, or that `kept` does not list, are not passed on. A
step without `metagrad.grad` keeps its body as @update, and @inner returns nothing.

The frontend cuts the step where it is a jaxpr (frontend/split_step.py), and its modules arrive cut:
one that has @inner stays as it is. This pass is for modules that hold the step in one piece: what
`lowered.ir("traced")` shows, and files written by hand.
"""

from __future__ import annotations

from jaxlib.mlir import ir
from jaxlib.mlir.dialects import func

from metagrad.compiler.dialect import functions, metagrad
from metagrad.compiler.dialect.metagrad import GRAD, Gradient, gradient

NAME = "cut"


def run(module: ir.Module) -> None:
    if functions.find(module, "inner") is not None:
        return
    step = functions.need(module, "step", NAME)
    sites = gradients_of(step)
    kept = [Gradient(site).kept for site in sites]
    carried = [functions.types([site.results[i] for i in keep]) for site, keep in zip(sites, kept)]

    update = functions.clone(module, step, "update")
    _hand_over(step, update)
    _feed(update, kept, carried)
    inputs = []
    for index in range(len(sites)):
        reader = functions.clone(module, step, f"inputs_{index}")
        _feed(reader, kept[:index], carried[:index], returns_operands_of=index)
        _hand_over(step, reader)
        inputs.append(reader)

    arguments = functions.types(functions.body(step).arguments)
    templates = [
        (functions.types(site.results), dict(_attributes(site)), site.location) for site in sites
    ]

    def build_inner(operands: list[ir.Value]) -> list[ir.Value]:
        inner: list[ir.Value] = []
        for index, (results, attributes, location) in enumerate(templates):
            read = functions.call(inputs[index], [*operands, *inner])
            with location:
                site = gradient(results, read, attributes)
            inner += [site.results[i] for i in kept[index]]
        return inner

    inner = functions.add_function(module, "inner", arguments, build_inner)
    step.operation.erase()
    functions.add_function(
        module,
        "step",
        arguments,
        lambda operands: functions.call(update, [*operands, *functions.call(inner, operands)]),
        visibility="public",
    )


def _hand_over(step: func.FuncOp, piece: func.FuncOp) -> None:
    """What JAX made for a piece of the step, a VJP or the function as it is run, stands on @step
    until the piece exists.
    """
    metagrad.strip(piece)
    for name in (metagrad.VJP, metagrad.RUN):
        on_step = metagrad.of_piece(piece.name.value, name)
        if on_step in step.attributes:
            piece.attributes[name] = step.attributes[on_step]


def gradients_of(function: func.FuncOp) -> list[ir.OpView]:
    """The `metagrad.grad` ops in the function's own body, in order."""
    return [
        op.opview
        for op in functions.operations(function, GRAD.__eq__)
        if op.parent == function.operation
    ]


def _attributes(op: ir.OpView):
    return ((name, op.attributes[name]) for name in op.attributes)


def _feed(function, kept, carried, returns_operands_of: int | None = None) -> None:
    """Replaces the first gradients of `function` by new arguments, and drops what no longer reaches
    a result.

    With `returns_operands_of=i` the function is made to return what its i-th gradient is called on,
    in place of its results.
    """
    block = functions.body(function)
    sites = gradients_of(function)
    for site, keep, incoming in zip(sites, kept, carried):
        for i, ty in zip(keep, incoming):
            site.results[i].replace_all_uses_with(block.add_argument(ty, site.location))
    # Read after the replacement: an operand may be an earlier gradient itself.
    read = (
        functions.returned(function)
        if returns_operands_of is None
        else sites[returns_operands_of].operands
    )
    functions.set_results(function, list(read))
