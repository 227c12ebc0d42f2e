"""The vector-Jacobian product of a function, as code at the current insertion point.

Enzyme's, as an `enzyme.autodiff` op, or a call of the one that JAX made where the function brings
one (`metagrad.vjp`). An argument that a function returns untouched needs neither, if the derivative
is Enzyme's. Where JAX differentiates, a custom rule may stand between the two (a gradient that is
reversed, say), which is not seen here.
"""

from __future__ import annotations

from collections.abc import Sequence

from jaxlib.mlir import ir
from jaxlib.mlir.dialects import func
from jaxlib.mlir.dialects import stablehlo as hlo

from metagrad.compiler.analysis.dependence import Dependence
from metagrad.compiler.dialect import functions, metagrad
from metagrad.compiler.dialect.enzyme import autodiff
from metagrad.compiler.dialect.functions import is_float

Cotangents = dict[int, ir.Value]


def vjp(
    module: ir.Module,
    function: func.FuncOp,
    primals: Sequence[ir.Value],
    seeds: Cotangents,
    wanted: set[int],
    through: Dependence,
) -> Cotangents:
    """Cotangents of the operands in `wanted` that the seeded results of `function` depend on.

    Args:
      primals: the operands.
      seeds: cotangent by index of result.
      wanted: operands, by index.
      through: for each result the operands that it depends on (`dependence`).
    """
    jax_vjp = vjp_by_jax(module, function)
    argument_of = {} if jax_vjp is not None else _results_that_are_arguments(function)
    total: Cotangents = {}
    for result in [i for i in seeds if i in argument_of]:
        # The result is an argument as it came in: its cotangent needs no differentiation.
        if argument_of[result] in wanted:
            accumulate(total, {argument_of[result]: seeds[result]})
        seeds = {i: seed for i, seed in seeds.items() if i != result}
    active = sorted(i for i in wanted if any(i in through[result] for result in seeds))
    if not active:
        return total
    if jax_vjp is not None:
        seeded = float_indices(function.type.results)[: len(jax_vjp.type.inputs) - len(primals)]
        dense = [seeds.get(i) or constant(function.type.results[i], 0) for i in seeded]
        cotangents = functions.call(jax_vjp, [*primals, *dense])
        by_operand = dict(zip(float_indices(function.type.inputs), cotangents))
        accumulate(total, {i: by_operand[i] for i in active})
        return total
    _, cotangents = autodiff(function, primals, active, seeds)
    accumulate(total, dict(zip(active, cotangents)))
    return total


def vjp_by_jax(
    module: ir.Module, function: func.FuncOp, attribute: str = metagrad.VJP
) -> func.FuncOp | None:
    """The VJP that JAX made for `function`, if it brought one under this attribute.

    It may leave out the last results, which are auxiliary and get no cotangent.

    Raises:
      ValueError: it does not take the function's arguments and then cotangents of its results.
    """
    if attribute not in function.attributes:
        return None
    jax_vjp = made_by_jax(module, function.attributes[attribute].value)
    assert jax_vjp is not None
    inputs = list(jax_vjp.type.inputs)
    expected = [*function.type.inputs, *(ty for ty in function.type.results if is_float(ty))]
    if inputs != expected[: max(len(inputs), len(function.type.inputs) + 1)]:
        raise ValueError(
            f"pass 'differentiate': @{jax_vjp.name.value} does not have the arguments of a VJP of "
            f"@{function.name.value}"
        )
    return jax_vjp


def made_by_jax(module: ir.Module, name: str | None) -> func.FuncOp | None:
    """A function that JAX made, marked as such.

    What it computes twice, the user may want computed twice; so passes that save work leave it.
    """
    if name is None:
        return None
    function = functions.get(module, name)
    function.attributes[metagrad.BY_JAX] = ir.UnitAttr.get()
    return function


def accumulate(total: Cotangents, more: Cotangents) -> None:
    """Adds cotangents to those of the same operands, in place."""
    for i, value in more.items():
        total[i] = hlo.add(total[i], value) if i in total else value


def constant(ty: ir.Type, value: float) -> ir.Value:
    """A floating-point constant with the same value in every element."""
    return hlo.constant(
        ir.DenseElementsAttr.get_splat(ty, ir.FloatAttr.get(ty.element_type, value))
    )


def float_indices(types: Sequence[ir.Type]) -> list[int]:
    """The floating-point ones among some types, by index."""
    return [i for i, ty in enumerate(types) if is_float(ty)]


def _results_that_are_arguments(function: func.FuncOp) -> dict[int, int]:
    """Index of a result that is one of the function's arguments, untouched -> that argument's."""
    position = {argument: i for i, argument in enumerate(functions.body(function).arguments)}
    return {
        i: position[value]
        for i, value in enumerate(functions.returned(function))
        if value in position
    }
