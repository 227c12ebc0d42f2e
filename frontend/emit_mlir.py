"""From jaxprs to one MLIR module that keeps JAX's derivative semantics: the `traced` stage.

One lowering by JAX, with its rules overridden where the derivative would be lost: an inner gradient becomes a custom call that names its loss, and
the table's overrides (capabilities/) keep what JAX's derivative is.  What comes out is renamed and raised; see compiler/dialect/functions.py for the functions a
metagrad module holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import jax
from jax.extend import core
from jax.extend.core import Primitive, jaxpr_as_fun
from jax.interpreters import mlir
from jaxlib.mlir import ir
from jaxlib.mlir.dialects import func
from jaxlib.mlir.dialects import stablehlo as hlo

from metagrad.compiler.dialect import functions
from metagrad.compiler.dialect.functions import Arguments
from metagrad.compiler.passes import raise_gradients
from metagrad.frontend import capabilities, prints
from metagrad.frontend.exact_lowerings import value_and_derivative
from metagrad.frontend.jaxprs import stopped_values
from metagrad.frontend.jaxprs.activity import Activity
from metagrad.frontend.split_step import Site, site_p
from metagrad.runtime import jax_internals

Derivatives = dict[str, core.ClosedJaxpr]
"""Functions that JAX differentiates itself, by the name of what they stand for: "vjp", "grad", "grad_vjp"."""


class Traced(NamedTuple):
    """What JAX lowered.

    Attributes:
      module: the traced module.
      callbacks: the host functions that it calls, by the index in the calls.
      muted: formats of the prints that were left out; they are in the pieces "prints" and "outer_prints", if those were given.
    """

    module: ir.Module
    callbacks: tuple[Callable, ...]
    muted: list[str]


def lower(
    pieces: dict[str, core.ClosedJaxpr],
    found: Sequence[Site],
    of_site: Sequence[Derivatives],
    active: Activity,
    arguments: Arguments,
    wrt: Sequence[str],
) -> Traced:
    """Lowers the step, the outer function and what JAX differentiates to one module.

    Args:
      pieces: "step" and "outer", "update_run" (the update as it is run), and optionally "update_vjp", "inputs_0_vjp", ..., "outer_vjp"
        made by JAX, and "prints" and "outer_prints" (prints.py).
      found: the inner gradients.
      of_site: what JAX made for each of them.
      active: where there are cotangents.
      arguments: sizes of the argument groups.
      wrt: what the metagradient is taken with respect to.
    """

    def lower_site(ctx, *operands, index, jaxpr, wrt, label):
        names = {
            "loss": jax_internals.lower_function(
                ctx, f"metagrad_loss_{index}", stopped_values.hold(jaxpr)
            )
        }
        for name, made in of_site[index].items():
            names[name] = jax_internals.lower_function(ctx, f"metagrad_loss_{index}_{name}", made)
        said = {name: ir.FlatSymbolRefAttr.get(symbol) for name, symbol in names.items()}
        said |= {
            "wrt": _indices(wrt),
            "label": ir.StringAttr.get(label),
            "kept": _indices(found[index].kept),
            "active": _indices(i for i, flag in enumerate(active.losses[index]) if flag),
        }
        results = [
            ty for aval in ctx.avals_out for ty in mlir.aval_to_ir_types(ctx.module_context, aval)
        ]
        return _custom_call(raise_gradients.GRAD, results, operands, said, list(names.values()))

    muted: list[str] = []
    rules = ((site_p, lower_site), *prints.mute(muted), *capabilities.overrides())
    names = list(pieces)

    def program(*groups):
        return [
            _jitted(f"metagrad_{name}", pieces[name])(*group) for name, group in zip(names, groups)
        ]

    traced = jax.jit(program, keep_unused=True).trace(*(pieces[name].in_avals for name in names))
    try:
        lowered = jax_internals.lower_with_rules(traced, rules)
    except TypeError as error:
        if not jax_internals.speaks_of_a_traced_constant(error):
            raise
        raise TypeError(
            "a traced value is used outside of the function that it belongs to: by a jax.custom_jvp or custom_vjp function that closes over it, or because a loss "
            "stored it in a list or an attribute. Pass it as an argument, or return it as aux. (jax.jit of the step meets the same.)"
        ) from error
    module = lowered.compiler_ir("stablehlo")
    module.context.allow_unregistered_dialects = True
    with module.context, ir.Location.unknown():
        _drop_placements(module)
        _name(module, names)
        _announce(module, pieces, active, arguments, wrt)
    return Traced(module, jax_internals.host_callbacks(lowered), muted)


as_run_p = jax_internals.keep_when_lowered(Primitive("metagrad_as_run"))
as_run_p.multiple_results = True


@as_run_p.def_abstract_eval
def _as_run_shapes(*avals, jaxpr):
    return jaxpr.out_avals


def _lower_as_run(ctx: mlir.LoweringRuleContext, *operands, jaxpr: core.ClosedJaxpr):
    """Lowers by JAX's own rules, no derivative carried along: what runs is bit for bit what the user wrote."""
    ctx = ctx.replace(
        module_context=value_and_derivative.without_overrides(ctx.module_context, keep=prints.MUTED)
    )
    return mlir.lower_fun(jaxpr_as_fun(jaxpr))(ctx, *operands)


mlir.register_lowering(as_run_p, _lower_as_run)


def as_run(jaxpr: core.ClosedJaxpr) -> core.ClosedJaxpr:
    """A jaxpr that is lowered as JAX lowers it, for a function that is run and not differentiated."""
    return jax.make_jaxpr(lambda *args: as_run_p.bind(*args, jaxpr=jaxpr))(*jaxpr.in_avals)


def _jitted(name: str, jaxpr: core.ClosedJaxpr):
    function = lambda *args: jaxpr_as_fun(jaxpr)(*args)
    function.__name__ = function.__qualname__ = name
    return jax.jit(function, keep_unused=True)


def _custom_call(
    target: str, results, operands, said: dict[str, ir.Attribute], called: Sequence[str]
):
    call = hlo.CustomCallOp(
        list(results),
        list(operands),
        call_target_name=ir.StringAttr.get(target),
        called_computations=ir.ArrayAttr.get([ir.FlatSymbolRefAttr.get(name) for name in called]),
        api_version=ir.IntegerAttr.get(ir.IntegerType.get_signless(32), 4),
    )
    call.attributes["mhlo.backend_config"] = ir.DictAttr.get(said)
    return call.results


def _drop_placements(module: ir.Module) -> None:
    """The program is for one device (one_device.py), so nobody needs to be told where on a mesh something is: a typed key, a call of the host, a sharding."""
    for op in list(module.body.operations):
        if op.operation.name == "sdy.mesh":
            op.operation.erase()
            continue
        for inner in list(functions.walk(functions.body(op))):
            if inner.operation.name == "sdy.sharding_constraint":
                inner.results[0].replace_all_uses_with(inner.operands[0])
                inner.operation.erase()
            elif "sdy.sharding" in inner.attributes:
                del inner.attributes["sdy.sharding"]
        for group in ("arg_attrs", "res_attrs"):
            if group in op.attributes:
                kept = [
                    {item.name: item.attr for item in each if item.name != "sdy.sharding"}
                    for each in op.attributes[group]
                ]
                op.attributes[group] = ir.ArrayAttr.get([ir.DictAttr.get(each) for each in kept])


def _name(module: ir.Module, names: Sequence[str]) -> None:
    """Gives our functions their names, takes @main away, and moves user functions that are in the way aside."""
    main = functions.find(module, "main")
    called = [
        op.callee.value for op in functions.body(main).operations if isinstance(op, func.CallOp)
    ]
    main.operation.erase()
    ours = dict(zip(called, names))
    for op in module.body.operations:
        symbol = op.name.value
        if symbol.startswith("metagrad_loss"):
            ours[symbol] = symbol.removeprefix("metagrad_")
    taken = set(ours.values()) | {"update", "inner", "main"}
    renamed = dict(ours)
    for op in module.body.operations:
        if op.name.value not in ours and (
            op.name.value in taken or op.name.value.startswith("inputs_")
        ):
            renamed[op.name.value] = f"user_{op.name.value}"
    functions.rename(module, renamed)


def _indices(numbers: Iterable[int]) -> ir.ArrayAttr:
    return ir.ArrayAttr.get(
        [ir.IntegerAttr.get(ir.IntegerType.get_signless(64), i) for i in numbers]
    )


def _announce(
    module: ir.Module, pieces, active: Activity, arguments: Arguments, wrt: Sequence[str]
) -> None:
    """Writes on the module and its functions what the passes need to know."""
    arguments.attach(module)
    module.operation.attributes["metagrad.wrt"] = ir.ArrayAttr.get(
        [ir.StringAttr.get(name) for name in wrt]
    )
    module.operation.attributes["metagrad.between_steps"] = _indices(active.between_steps())
    module.operation.attributes["sym_name"] = ir.StringAttr.get("metagrad")
    step, outer = functions.find(module, "step"), functions.find(module, "outer")
    for function in (step, outer):
        function.attributes["sym_visibility"] = ir.StringAttr.get("public")
    if "outer_vjp" in pieces:
        functions.rename(module, {"outer_vjp": "outer_vjp_by_jax"})
        outer.attributes["metagrad.vjp"] = ir.FlatSymbolRefAttr.get("outer_vjp_by_jax")
    for name in pieces:
        if name.startswith(("update", "inputs")):
            step.attributes[f"metagrad.{name}"] = ir.FlatSymbolRefAttr.get(name)
