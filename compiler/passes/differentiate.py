"""Writes the vector-Jacobian products of the step and of the outer function with `enzyme` ops.

    @update, @inputs_i, @loss_i   ->   @step_vjp (state, meta, batch, inner, cotangent of state') -> (cotangents of state, meta, batch)
    @outer                        ->   @outer_vjp(state, outer arguments) -> (value, aux, cotangent of state)

@step_vjp for one gradient g = grad(loss)(x), x = inputs(s, z, b), s' = update(s, z, b, g):

    (s^, z^, b^, g^) = enzyme.autodiff @update   seeded with the cotangent of s'
    x^               = enzyme.fwddiff @loss_vjp  in the direction g^          (loss_vjp is itself enzyme.autodiff @loss)
    (s^, z^, b^)    += enzyme.autodiff @inputs   seeded with x^

The middle line is MixFlow-MG's mixed mode (Kemaev et al. 2025, arXiv 2505.00793): the Jacobian of a
gradient is a Hessian, a Hessian is symmetric, so its vector-Jacobian product in the parameters is a
Jacobian-vector product, which needs no tape of the backward pass. Differentiating the whole of
@loss_vjp, which returns the cotangents of every operand of the loss, gives the cross derivatives
(metaparameters, batch) in the same sweep. Where the loss also passes on its value or auxiliary
results, their cotangents are the tangents of @loss_vjp's seeds: one forward sweep covers all of it.

With several gradients the last is first: g^ of the gradients before it is complete only when the
later ones have sent their x^ back.

A function may bring derivatives of its own, which JAX made when it was traced (its `metagrad.*`
attributes name them): where a custom rule or an op without proof is involved, those are called in
place of the `enzyme` op.
"""

from __future__ import annotations

from collections.abc import Sequence

from jaxlib.mlir import ir
from jaxlib.mlir.dialects import func
from jaxlib.mlir.dialects import stablehlo as hlo

from metagrad.compiler.analysis.dependence import carries_derivative, dependence
from metagrad.compiler.dialect import functions, metagrad
from metagrad.compiler.dialect.enzyme import autodiff, fwddiff
from metagrad.compiler.dialect.functions import is_float
from metagrad.compiler.dialect.metagrad import Gradient, Layout
from metagrad.compiler.passes.cut import gradients_of

NAME = "differentiate"

Cotangents = dict[int, ir.Value]


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
    _expand_gradients(module)
    functions.drop_unreachable(
        module,
        ["step", "inner", "update", "outer", "step_vjp", "outer_vjp", "prints", "outer_prints"],
    )


def _write_outer_vjp(module: ir.Module, outer: func.FuncOp, active: list[int]) -> None:
    own = _own(module, outer)

    def build(operands: list[ir.Value]) -> list[ir.Value]:
        one = _constant(outer.type.results[0], 1)
        if own is not None:
            primals = functions.call(outer, operands)
            by_input = dict(zip(_floats(outer.type.inputs), functions.call(own, [*operands, one])))
            return [*primals, *(by_input[i] for i in active)]
        if not active:
            return functions.call(outer, operands)
        primals, cotangents = autodiff(
            outer, operands, active, {0: one}, primals=range(len(outer.type.results))
        )
        return [*primals, *cotangents]

    functions.add_function(module, "outer_vjp", list(outer.type.inputs), build)


def _write_step_vjp(module: ir.Module, layout: Layout, active: list[int]) -> None:
    update, inner = functions.get(module, "update"), functions.get(module, "inner")
    sites = gradients_of(inner)
    kept = _kept(inner, sites)
    slices, start = [], layout.step
    for results in kept:
        slices.append(range(start, start + len(results)))
        start += len(results)
    states = [i for i in active if i < layout.state]
    seed_types = [update.type.results[i] for i in states]
    known: dict = {}
    through_update = dependence(module, update, known)
    readers = [functions.get(module, f"inputs_{index}") for index in range(len(sites))]
    through_inputs = [dependence(module, reader, known) for reader in readers]

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
        _accumulate(
            total, _vjp(module, update, primals, dict(zip(states, seeds)), wanted, through_update)
        )
        for index in reversed(range(len(sites))):
            cotangents = {i: total[i] for i in inner_needed[index] if i in total}
            if not cotangents:
                continue
            reader, through = readers[index], through_inputs[index]
            read_primals = primals[: len(reader.type.inputs)]
            read = functions.call(reader, read_primals)
            relevant = [i for i, reached in enumerate(through) if reached & wanted]
            # The frontend sees more of what has a derivative than is left on the MLIR.
            listed = Gradient(sites[index]).active
            if listed is not None:
                relevant = [i for i in relevant if i in set(listed)]
            if not relevant:
                continue
            _refuse_complex(sites[index], "takes", [reader.type.results[i] for i in relevant])
            by_result = {
                kept[index][i - slices[index].start]: value for i, value in cotangents.items()
            }
            into = _gradient_vjp(module, sites[index], index, read, by_result, relevant)
            _accumulate(
                total,
                _vjp(module, reader, read_primals, dict(zip(relevant, into)), wanted, through),
            )
        return [total.get(i) or _constant(update.type.inputs[i], 0) for i in active]

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


def _kept(inner: func.FuncOp, sites: Sequence[ir.OpView]) -> list[list[int]]:
    """For each gradient, the results that @inner passes on."""
    passed = set(functions.returned(inner))
    return [[i for i, result in enumerate(site.results) if result in passed] for site in sites]


def _vjp(
    module: ir.Module,
    function: func.FuncOp,
    primals: Sequence[ir.Value],
    seeds: Cotangents,
    wanted: set[int],
    through,
) -> Cotangents:
    """Cotangents of the operands in `wanted` that the seeded results of `function` depend on."""
    passed = _passed_through(function)
    total: Cotangents = {}
    for result in [i for i in seeds if i in passed]:
        # The result is an argument as it came in: its cotangent needs no differentiation.
        if passed[result] in wanted:
            _accumulate(total, {passed[result]: seeds[result]})
        seeds = {i: seed for i, seed in seeds.items() if i != result}
    active = sorted(i for i in wanted if any(i in through[result] for result in seeds))
    if not active:
        return total
    own = _own(module, function)
    if own is not None:
        seeded = _floats(function.type.results)[: len(own.type.inputs) - len(primals)]
        dense = [seeds.get(i) or _constant(function.type.results[i], 0) for i in seeded]
        made = dict(zip(_floats(function.type.inputs), functions.call(own, [*primals, *dense])))
        _accumulate(total, {i: made[i] for i in active})
        return total
    _, cotangents = autodiff(function, primals, active, seeds)
    _accumulate(total, dict(zip(active, cotangents)))
    return total


def _passed_through(function: func.FuncOp) -> dict[int, int]:
    """Results that are one of the function's arguments, untouched: index of the result -> index of
    the argument.
    """
    position = {argument: i for i, argument in enumerate(functions.body(function).arguments)}
    return {
        i: position[value]
        for i, value in enumerate(functions.returned(function))
        if value in position
    }


def _gradient_vjp(
    module: ir.Module,
    site: ir.OpView,
    index: int,
    operands: Sequence[ir.Value],
    cotangents: Cotangents,
    relevant: Sequence[int],
) -> list[ir.Value]:
    """Cotangents of the loss's operands `relevant`, from those of a gradient's results (value, aux,
    gradients).
    """
    said = Gradient(site)
    loss, wrt = functions.get(module, said.loss), said.wrt
    outputs = len(loss.type.results)
    own = _by_jax(module, said.by_jax("grad_vjp"))
    if own is not None:
        dense = [
            cotangents.get(i) or _constant(r.type, 0)
            for i, r in enumerate(site.results)
            if is_float(r.type)
        ]
        made = dict(zip(_floats(loss.type.inputs), functions.call(own, [*operands, *dense])))
        return [made[i] for i in relevant]
    seeded = [i for i in range(outputs) if i == 0 or i in cotangents]
    loss_vjp = _loss_vjp(module, site, loss, seeded, relevant, f"{loss.name.value}_vjp_{index}")
    seeds = [_constant(loss.type.results[i], 1 if i == 0 else 0) for i in seeded]
    tangents = {wrt[i - outputs]: cotangent for i, cotangent in cotangents.items() if i >= outputs}
    count = len(loss.type.inputs)
    tangents |= {
        count + seeded.index(i): cotangent for i, cotangent in cotangents.items() if i < outputs
    }
    return fwddiff(loss_vjp, [*operands, *seeds], tangents)


def _loss_vjp(module, site, loss, seeded, relevant, name) -> func.FuncOp:
    """@loss_vjp(x, seeds) -> cotangents of x[relevant], in reverse mode."""

    def build(operands: list[ir.Value]) -> list[ir.Value]:
        primals, seeds = operands[: len(loss.type.inputs)], operands[len(loss.type.inputs) :]
        own = _by_jax(module, Gradient(site).by_jax("vjp"))
        if own is not None:
            given = dict(zip(seeded, seeds))
            dense = [
                given.get(i) or _constant(ty, 0)
                for i, ty in enumerate(loss.type.results)
                if is_float(ty)
            ]
            made = dict(zip(_floats(loss.type.inputs), functions.call(own, [*primals, *dense])))
            return [made[i] for i in relevant]
        return autodiff(loss, primals, relevant, dict(zip(seeded, seeds)))[1]

    seed_types = [loss.type.results[i] for i in seeded]
    return functions.add_function(module, name, [*loss.type.inputs, *seed_types], build)


def _expand_gradients(module: ir.Module) -> None:
    """The `metagrad.grad` ops of @inner become reverse mode of their losses."""
    inner = functions.get(module, "inner")
    for site in gradients_of(inner):
        said = Gradient(site)
        loss, wrt = functions.get(module, said.loss), said.wrt
        outputs = len(loss.type.results)
        by_jax = _by_jax(module, said.by_jax("grad"))
        with ir.InsertionPoint(site), site.location:
            if by_jax is not None:
                results: list[ir.Value | None] = [*functions.call(by_jax, list(site.operands))]
            else:
                read = [i for i in range(outputs) if any(True for _ in site.results[i].uses)]
                order = sorted(wrt)
                primals, cotangents = autodiff(
                    loss,
                    list(site.operands),
                    order,
                    {0: _constant(loss.type.results[0], 1)},
                    primals=read,
                )
                value = dict(zip(read, primals))
                gradient = dict(zip(order, cotangents))
                results = [value.get(i) for i in range(outputs)] + [gradient[i] for i in wrt]
        for old, new in zip(site.results, results):
            if new is not None:
                old.replace_all_uses_with(new)
        site.operation.erase()


def _own(module: ir.Module, function: func.FuncOp) -> func.FuncOp | None:
    """The VJP that JAX made for `function`, if it brought one.

    It may leave out the last results, which are auxiliary and get no cotangent.
    """
    if metagrad.VJP not in function.attributes:
        return None
    own = _by_jax(module, function.attributes[metagrad.VJP].value)
    assert own is not None
    expected = [*function.type.inputs, *(ty for ty in function.type.results if is_float(ty))]
    if (
        list(own.type.inputs)
        != expected[: max(len(own.type.inputs), len(function.type.inputs) + 1)]
    ):
        raise ValueError(
            f"pass {NAME!r}: @{own.name.value} does not have the arguments of a VJP of "
            f"@{function.name.value}"
        )
    return own


def _by_jax(module: ir.Module, name: str | None) -> func.FuncOp | None:
    """A function that JAX made, marked as such: what it computes twice, the user may want computed
    twice.
    """
    if name is None:
        return None
    function = functions.get(module, name)
    function.attributes[metagrad.BY_JAX] = ir.UnitAttr.get()
    return function


def _floats(types: Sequence[ir.Type]) -> list[int]:
    return [i for i, ty in enumerate(types) if is_float(ty)]


def _accumulate(total: Cotangents, more: Cotangents) -> None:
    for i, value in more.items():
        total[i] = hlo.add(total[i], value) if i in total else value


def _constant(ty: ir.Type, value: float) -> ir.Value:
    return hlo.constant(
        ir.DenseElementsAttr.get_splat(ty, ir.FloatAttr.get(ty.element_type, value))
    )
