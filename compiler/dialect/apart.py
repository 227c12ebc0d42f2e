"""Calls that Enzyme is not shown: of functions that JAX made and that compute something again.

    %c = call @loss_0_grad_vjp(%a)
->
    %c = stablehlo.custom_call @metagrad.apart(%a) {backend_config = {callee = "loss_0_grad_vjp"}}

Enzyme's pipeline inlines every call. In such a function (a derivative of a `jax.checkpoint`) are
calls that must not be inlined: XLA would see that the same is computed elsewhere, and keep it.
There is nothing in it for Enzyme to differentiate either. So pass `expand` takes it out before
Enzyme's run, with all that it calls, and puts the call back behind it.
"""

from __future__ import annotations

from jaxlib.mlir import ir
from jaxlib.mlir.dialects import func
from jaxlib.mlir.dialects import stablehlo as hlo

from metagrad.compiler.dialect import enzyme, functions, metagrad


def hide(module: ir.Module, function: func.FuncOp) -> None:
    """Hides the calls in a function of such functions, and erases what nothing calls any more."""
    for op in functions.operations(function, "func.call".__eq__):
        call = op.opview
        assert isinstance(call, func.CallOp)
        callee = call.callee.value
        if _is_apart(module, callee):
            with ir.InsertionPoint(op), op.location:
                hidden = hlo.CustomCallOp(
                    functions.types(call.results),
                    list(call.operands),
                    call_target_name=ir.StringAttr.get(metagrad.APART),
                    api_version=ir.IntegerAttr.get(ir.IntegerType.get_signless(32), 4),
                )
                config: dict[str, ir.Attribute] = {"callee": ir.StringAttr.get(callee)}
                hidden.attributes[functions.BACKEND_CONFIG] = ir.DictAttr.get(config)
            functions.exchange(op, list(hidden.results))
    functions.drop_unreachable(module, [function.name.value])


def show(function: func.FuncOp) -> None:
    """Puts the calls back."""
    for op in functions.operations(function, functions.CUSTOM_CALL.__eq__):
        if op.attributes["call_target_name"].value == metagrad.APART:
            callee = op.attributes[functions.BACKEND_CONFIG]["callee"].value
            with ir.InsertionPoint(op), op.location:
                call = func.CallOp(
                    functions.types(op.results),
                    ir.FlatSymbolRefAttr.get(callee),
                    list(op.operands),
                )
            functions.exchange(op, list(call.results))


def _is_apart(module: ir.Module, name: str) -> bool:
    """Whether something in a function must not be inlined, and nothing is to be differentiated."""
    parts = [functions.get(module, part) for part in functions.reachable(module, [name])]
    inside = [op for part in parts for op in functions.operations(part)]
    return any(functions.NO_INLINE in op.attributes for op in inside) and not any(
        op.name in enzyme.DERIVATIVES for op in inside
    )
