"""An inner gradient, `metagrad.grad`, and its vector-Jacobian product.

The gradient is reverse mode of the loss. Its VJP is forward mode over that (mixed mode; the
docstring of pass `differentiate` has the formula and the reference), or a call of what JAX made
where the op names it (`metagrad.Gradient.by_jax`).
"""

from __future__ import annotations

from collections.abc import Sequence

from jaxlib.mlir import ir
from jaxlib.mlir.dialects import func

from metagrad.compiler.dialect import functions
from metagrad.compiler.dialect.enzyme import autodiff, fwddiff
from metagrad.compiler.dialect.functions import is_float
from metagrad.compiler.dialect.metagrad import Gradient
from metagrad.compiler.passes.derivatives.function_vjp import (
    Cotangents,
    constant,
    float_indices,
    made_by_jax,
)


def gradient_vjp(
    module: ir.Module,
    site: ir.OpView,
    index: int,
    operands: Sequence[ir.Value],
    cotangents: Cotangents,
    active: Sequence[int],
) -> list[ir.Value]:
    """Cotangents of the loss's operands, from those of a gradient's results.

    Args:
      site: the `metagrad.grad` op.
      index: which of the step's gradients it is.
      operands: the loss's operands.
      cotangents: by index of the op's results (value, auxiliary results, gradients).
      active: the operands whose cotangents are returned, by index, in this order.
    """
    grad = Gradient(site)
    loss, wrt = functions.get(module, grad.loss), grad.wrt
    outputs = len(loss.type.results)
    jax_vjp = made_by_jax(module, grad.by_jax("grad_vjp"))
    if jax_vjp is not None:
        dense = [
            cotangents.get(i) or constant(result.type, 0)
            for i, result in enumerate(site.results)
            if is_float(result.type)
        ]
        returned = functions.call(jax_vjp, [*operands, *dense])
        by_operand = dict(zip(float_indices(loss.type.inputs), returned))
        return [by_operand[i] for i in active]
    seeded = [i for i in range(outputs) if i == 0 or i in cotangents]
    loss_vjp = _loss_vjp(module, site, loss, seeded, active, f"{loss.name.value}_vjp_{index}")
    seeds = [constant(loss.type.results[i], 1 if i == 0 else 0) for i in seeded]
    tangents = {wrt[i - outputs]: cotangent for i, cotangent in cotangents.items() if i >= outputs}
    count = len(loss.type.inputs)
    tangents |= {
        count + seeded.index(i): cotangent for i, cotangent in cotangents.items() if i < outputs
    }
    return fwddiff(loss_vjp, [*operands, *seeds], tangents)


def _loss_vjp(
    module: ir.Module,
    site: ir.OpView,
    loss: func.FuncOp,
    seeded: Sequence[int],
    active: Sequence[int],
    name: str,
) -> func.FuncOp:
    """@loss_vjp(operands, seeds) -> cotangents of the `active` operands, in reverse mode."""

    def build(operands: list[ir.Value]) -> list[ir.Value]:
        primals, seeds = operands[: len(loss.type.inputs)], operands[len(loss.type.inputs) :]
        seed_of = dict(zip(seeded, seeds))
        jax_vjp = made_by_jax(module, Gradient(site).by_jax("vjp"))
        if jax_vjp is not None:
            dense = [
                seed_of.get(i) or constant(ty, 0)
                for i, ty in enumerate(loss.type.results)
                if is_float(ty)
            ]
            returned = functions.call(jax_vjp, [*primals, *dense])
            by_operand = dict(zip(float_indices(loss.type.inputs), returned))
            return [by_operand[i] for i in active]
        return autodiff(loss, primals, active, seed_of)[1]

    seed_types = [loss.type.results[i] for i in seeded]
    return functions.add_function(module, name, [*loss.type.inputs, *seed_types], build)


def expand_gradient(module: ir.Module, site: ir.OpView) -> None:
    """Replaces a `metagrad.grad` op by reverse mode of its loss."""
    grad = Gradient(site)
    loss = functions.get(module, grad.loss)
    jax_grad = made_by_jax(module, grad.by_jax("grad"))
    with ir.InsertionPoint(site), site.location:
        results: Sequence[ir.Value | None] = (
            functions.call(jax_grad, list(site.operands))
            if jax_grad is not None
            else _reverse_mode(site, loss, grad.wrt)
        )
    for old, new in zip(site.results, results):
        if new is not None:
            old.replace_all_uses_with(new)
    site.operation.erase()


def _reverse_mode(site: ir.OpView, loss: func.FuncOp, wrt: Sequence[int]) -> list[ir.Value | None]:
    """The results of a `metagrad.grad` op; None for values of the loss that nothing reads."""
    outputs = len(loss.type.results)
    read = [i for i in range(outputs) if any(True for _ in site.results[i].uses)]
    order = sorted(wrt)
    seeds = {0: constant(loss.type.results[0], 1)}
    primals, cotangents = autodiff(loss, list(site.operands), order, seeds, primals=read)
    value, gradient = dict(zip(read, primals)), dict(zip(order, cotangents))
    return [*(value.get(i) for i in range(outputs)), *(gradient[i] for i in wrt)]
