"""Raises what JAX could only say as custom calls to the ops that they mean.

    %r:2 = stablehlo.custom_call @metagrad.grad(%p, %b) {backend_config = {loss = @loss, wrt = [0]}}
    %s   = stablehlo.custom_call @metagrad.stop_gradient(%x)
    %o   = stablehlo.custom_call @metagrad.once(%x)
    %a   = stablehlo.custom_call @metagrad.anchor(%x)
->
    %r:2 = "metagrad.grad"(%p, %b) {loss = @loss, wrt = [0]}
    %i   = "enzyme.ignore_derivatives"(%x)
    %s   = stablehlo.custom_call @metagrad.stopped(%i)       a mark that outlives the first order
    %o   = "enzyme.ignore_derivatives"(%x)
    %j   = "enzyme.ignore_derivatives"(%x)
    %a   = stablehlo.custom_call @metagrad.anchored(%j)      another (dialect/stopped.py has both)

JAX's lowering verifies every op that it emits, so an op of a dialect that it does not know has to
pass through as a custom call.
"""

from __future__ import annotations

from jaxlib.mlir import ir

from metagrad.compiler.dialect import enzyme, functions, metagrad, stopped

NAME = "raise-gradients"

_STOPS = {
    metagrad.STOP_GRADIENT: stopped.mark_stopped,
    metagrad.ONCE: enzyme.ignore_derivatives,
    metagrad.ANCHOR: stopped.mark_anchored,
}


def run(module: ir.Module) -> None:
    for op in functions.operations(module, functions.CUSTOM_CALL.__eq__):
        target = op.attributes["call_target_name"].value
        if target == metagrad.GRAD:
            _raise_grad(op)
        elif target in _STOPS:
            with ir.InsertionPoint(op), op.location:
                constant = _STOPS[target](op.operands[0])
            op.results[0].replace_all_uses_with(constant)
            op.erase()


def _raise_grad(op: ir.Operation) -> None:
    if functions.BACKEND_CONFIG not in op.attributes:
        raise ValueError(
            f"pass {NAME!r}: the custom call @{metagrad.GRAD} has no `{functions.BACKEND_CONFIG}`, "
            "which names its loss"
        )
    config = op.attributes[functions.BACKEND_CONFIG]
    attributes = {name: config[name] for name in metagrad.Gradient.ATTRIBUTES if name in config}
    with ir.InsertionPoint(op), op.location:
        raised = metagrad.gradient(functions.types(op.results), list(op.operands), attributes)
    for old, new in zip(op.results, raised.results):
        old.replace_all_uses_with(new)
    op.erase()
