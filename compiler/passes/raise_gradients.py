"""Raises what JAX could only say as custom calls to the ops that they mean.

    %r:2 = stablehlo.custom_call @metagrad.grad(%p, %b) {called_computations = [@loss], backend_config = {wrt = [0]}}
    %s   = stablehlo.custom_call @metagrad.stop_gradient(%x)
    %o   = stablehlo.custom_call @metagrad.once(%x)
    %a   = stablehlo.custom_call @metagrad.anchor(%x)
->
    %r:2 = "metagrad.grad"(%p, %b) {loss = @loss, wrt = [0]}
    %i   = "enzyme.ignore_derivatives"(%x)
    %s   = stablehlo.custom_call @metagrad.held(%i)                     a mark that outlives the first order (stopped.py)
    %o   = "enzyme.ignore_derivatives"(%x)
    %a   = stablehlo.custom_call @metagrad.anchored(%j)                 with %j = "enzyme.ignore_derivatives"(%x)

JAX's lowering verifies every op that it emits, so an op of a dialect that it does not know has to pass through as a custom call.
"""

from __future__ import annotations

from jaxlib.mlir import ir
from jaxlib.mlir.dialects import func
from jaxlib.mlir.dialects import stablehlo as hlo

from metagrad.compiler.dialect import functions, stopped

NAME = "raise-gradients"

GRAD = "metagrad.grad"
STOP_GRADIENT = "metagrad.stop_gradient"
ONCE = "metagrad.once"
ANCHOR = "metagrad.anchor"

ATTRIBUTES = ("loss", "wrt", "kept", "active", "vjp", "grad", "grad_vjp", "label")
"""What a `metagrad.grad` may say: its loss, the operands that it differentiates, the results that the step reads, the operands in which a derivative is
wanted, what JAX made in Enzyme's place, and the loss's name and line."""

_STOPS = {STOP_GRADIENT: stopped.hold, ONCE: stopped.ignore, ANCHOR: stopped.anchor}


def run(module: ir.Module) -> None:
    for function in list(module.body.operations):
        if not isinstance(function, func.FuncOp):
            continue
        for op in list(functions.walk(functions.body(function))):
            if not isinstance(op, hlo.CustomCallOp):
                continue
            if op.call_target_name.value == GRAD:
                _raise_grad(op)
            elif op.call_target_name.value in _STOPS:
                with ir.InsertionPoint(op), op.location:
                    stopped = _STOPS[op.call_target_name.value](op.operands[0])
                op.results[0].replace_all_uses_with(stopped)
                op.operation.erase()


def _raise_grad(op: hlo.CustomCallOp) -> None:
    if "mhlo.backend_config" not in op.attributes:
        raise ValueError(
            f"pass {NAME!r}: the custom call @{GRAD} has no `mhlo.backend_config`, which names its loss"
        )
    said = op.attributes["mhlo.backend_config"]
    _replace(op, GRAD, {name: said[name] for name in ATTRIBUTES if name in said})


def _replace(op: ir.OpView, name: str, attributes: dict[str, ir.Attribute]) -> None:
    with ir.InsertionPoint(op), op.location:
        raised = ir.Operation.create(
            name,
            results=functions.types(op.results),
            operands=list(op.operands),
            attributes=attributes,
        )
    for old, new in zip(op.results, raised.results):
        old.replace_all_uses_with(new)
    op.operation.erase()
