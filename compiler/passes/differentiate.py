"""Writes the vector-Jacobian products of the step and of the outer function with `enzyme` ops.

    @update, @inputs_i, @loss_i   ->   @step_vjp (state, meta, batch, inner, cotangent of state')
                                                 -> (cotangents of state, meta, batch)
    @outer                        ->   @outer_vjp(state, outer arguments)
                                                 -> (value, aux, cotangent of state)

If the outer value is a vector, @outer_vjp takes a cotangent of it as its last argument, and pass
`queries` gives both functions a cotangent for each of the vector's entries.

@step_vjp for one gradient g = grad(loss)(x), x = inputs(s, z, b), s' = update(s, z, b, g):

    (s^, z^, b^, g^) = enzyme.autodiff @update   seeded with the cotangent of s'
    x^               = enzyme.fwddiff @loss_vjp  in the direction g^
    (s^, z^, b^)    += enzyme.autodiff @inputs   seeded with x^

where @loss_vjp is itself enzyme.autodiff of @loss.

The middle line is MixFlow-MG's mixed mode (Kemaev et al. 2025, arXiv 2505.00793): the Jacobian of a
gradient is a Hessian, a Hessian is symmetric, so its vector-Jacobian product in the parameters is a
Jacobian-vector product, which needs no tape of the backward pass. Differentiating the whole of
@loss_vjp, which returns the cotangents of every operand of the loss, gives the cross derivatives
(metaparameters, batch) in the same sweep. Where the loss also passes on its value or auxiliary
results, their cotangents are the tangents of @loss_vjp's seeds: one forward sweep covers all of it.

With several gradients the last is first: g^ of the gradients before it is complete only when the
later ones have sent their x^ back.

A function may bring derivatives that JAX made when it was traced (its `metagrad.*` attributes name
them). Where a custom rule or an op without proof is involved, those are called in place of the
`enzyme` op.

This file decides which cotangents go where; derivatives/ writes each of the VJPs.
"""

from __future__ import annotations

from collections.abc import Sequence

from jaxlib.mlir import ir
from jaxlib.mlir.dialects import func

from metagrad.compiler.analysis.dependence import Dependence, carries_derivative, dependence
from metagrad.compiler.dialect import functions, metagrad
from metagrad.compiler.dialect.enzyme import autodiff
from metagrad.compiler.dialect.functions import is_float
from metagrad.compiler.dialect.metagrad import Gradient, Layout
from metagrad.compiler.passes.cut import gradients_of
from metagrad.compiler.passes.derivatives.function_vjp import (
    Cotangents,
    accumulate,
    constant,
    float_indices,
    vjp,
    vjp_by_jax,
)
from metagrad.compiler.passes.derivatives.gradient_vjp import expand_gradient, gradient_vjp

NAME = "differentiate"


def run(module: ir.Module) -> None:
    layout, wrt = Layout.of(module), metagrad.wrt_of(module)
    between_steps = metagrad.between_steps_of(module)
    update, outer = functions.need(module, "update", NAME), functions.need(module, "outer", NAME)
    # Operands of @step that get a cotangent: of the state what hands it on, and all floats of meta
    # and batches.
    active = between_steps + [
        i
        for i in layout.differentiated(wrt)
        if i >= layout.state and is_float(update.type.inputs[i])
    ]
    _write_outer_vjp(module, outer, between_steps)
    _write_step_vjp(module, layout, active)
    for site in gradients_of(functions.get(module, "inner")):
        expand_gradient(module, site)
    functions.drop_unreachable(module, ["step", "outer", *functions.PIECES])


def _write_outer_vjp(module: ir.Module, outer: func.FuncOp, active: list[int]) -> None:
    by_jax = vjp_by_jax(module, outer, metagrad.VALUE_AND_VJP)

    value = outer.type.results[0]
    inputs = [*outer.type.inputs, *([value] if value.shape else [])]

    def build(operands: list[ir.Value]) -> list[ir.Value]:
        primals = operands[: len(outer.type.inputs)]
        seed = operands[-1] if value.shape else constant(value, 1)
        if by_jax is not None:
            first, *cotangents = functions.call(by_jax, [*primals, seed])
            by_operand = dict(zip(float_indices(outer.type.inputs), cotangents))
            aux = functions.call(outer, primals)[1:] if len(outer.type.results) > 1 else []
            return [first, *aux, *(by_operand[i] for i in active)]
        if not active:
            return functions.call(outer, primals)
        results, cotangents = autodiff(
            outer, primals, active, {0: seed}, primals=range(len(outer.type.results))
        )
        return [*results, *cotangents]

    functions.add_function(module, "outer_vjp", inputs, build)


def _write_step_vjp(module: ir.Module, layout: Layout, active: list[int]) -> None:
    update, inner = functions.get(module, "update"), functions.get(module, "inner")
    sites = gradients_of(inner)
    passed_on = _passed_on(inner, sites)
    slices, start = [], layout.step
    for results in passed_on:
        slices.append(range(start, start + len(results)))
        start += len(results)
    states = [i for i in active if i < layout.state]
    seed_types = [update.type.results[i] for i in states]
    memo: dict[str, Dependence] = {}
    through_update = dependence(module, update, memo)
    readers = [functions.get(module, f"inputs_{index}") for index in range(len(sites))]
    through_inputs = [dependence(module, reader, memo) for reader in readers]

    def build(operands: list[ir.Value]) -> list[ir.Value]:
        primals, seeds = operands[: len(update.type.inputs)], operands[len(update.type.inputs) :]
        total: Cotangents = {}
        needed = set(active)
        # An inner result needs a cotangent if the state' reads it and something that we want
        # reaches the gradient.
        inner_needed = [
            [i for i in piece if carries_derivative(update.type.inputs[i])] if reached else []
            for piece, reached in zip(slices, _reached(through_inputs, needed, slices))
        ]
        for site, piece in zip(sites, inner_needed):
            _refuse_complex(site, "returns", [update.type.inputs[i] for i in piece])
        wanted = needed | {i for piece in inner_needed for i in piece}
        accumulate(
            total, vjp(module, update, primals, dict(zip(states, seeds)), wanted, through_update)
        )
        for index in reversed(range(len(sites))):
            cotangents = {i: total[i] for i in inner_needed[index] if i in total}
            if not cotangents:
                continue
            reader, through = readers[index], through_inputs[index]
            read_primals = primals[: len(reader.type.inputs)]
            read = functions.call(reader, read_primals)
            active_operands = [i for i, reached in enumerate(through) if reached & wanted]
            # The frontend sees more of what has a derivative than is left on the MLIR.
            listed = Gradient(sites[index]).active
            if listed is not None:
                active_operands = [i for i in active_operands if i in set(listed)]
            if not active_operands:
                continue
            _refuse_complex(
                sites[index], "takes", [reader.type.results[i] for i in active_operands]
            )
            by_result = {
                passed_on[index][i - slices[index].start]: value for i, value in cotangents.items()
            }
            into = gradient_vjp(module, sites[index], index, read, by_result, active_operands)
            accumulate(
                total,
                vjp(
                    module, reader, read_primals, dict(zip(active_operands, into)), wanted, through
                ),
            )
        return [total.get(i) or constant(update.type.inputs[i], 0) for i in active]

    functions.add_function(module, "step_vjp", [*update.type.inputs, *seed_types], build)


def _refuse_complex(site: ir.OpView, does: str, passed: Sequence[ir.Type]) -> None:
    for ty in passed:
        if not is_float(ty):
            raise ValueError(
                f"the gradient{Gradient(site).whose} {does} a {ty} that what is differentiated "
                "reaches, and metagrad passes no complex cotangents between "
                "functions. Give it real and imaginary parts apart, or use jax.grad there."
            )


def _reached(through_inputs, needed: set[int], slices: Sequence[range]) -> list[bool]:
    """For each gradient, whether anything that needs a cotangent reaches it, directly or through an
    earlier gradient.
    """
    gradient_of = {i: index for index, piece in enumerate(slices) for i in piece}
    reached: list[bool] = []
    for through in through_inputs:
        operands = frozenset().union(*through)
        reached.append(
            any(i in needed or (i in gradient_of and reached[gradient_of[i]]) for i in operands)
        )
    return reached


def _passed_on(inner: func.FuncOp, sites: Sequence[ir.OpView]) -> list[list[int]]:
    """For each gradient, the results that @inner passes on."""
    passed = set(functions.returned(inner))
    return [[i for i, result in enumerate(site.results) if result in passed] for site in sites]
