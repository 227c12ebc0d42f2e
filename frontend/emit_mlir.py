"""From jaxprs to one MLIR module that keeps JAX's derivative semantics.

That is the `cut` stage; the `traced` stage is emitted on demand.

JAX lowers once, with its rules overridden where the derivative would be lost: an inner gradient
becomes a custom call that names its loss, and the table's overrides (capabilities/) keep JAX's
derivative. The functions of the result are then renamed; compiler/dialect/functions.py says which
functions a metagrad module holds.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from jax.extend import core
from jax.extend.core import jaxpr_as_fun
from jax.interpreters import mlir
from jaxlib.mlir import ir
from jaxlib.mlir.dialects import func
from jaxlib.mlir.dialects import stablehlo as hlo

from metagrad.compiler.dialect import captured, functions, metagrad, placements
from metagrad.compiler.dialect.metagrad import Layout
from metagrad.frontend import capabilities, leaked_values, prints, recomputation
from metagrad.frontend.captured import Captured
from metagrad.frontend.jaxprs import stopped_values
from metagrad.frontend.jaxprs.activity import Activity
from metagrad.frontend.jaxprs.counters import Counters
from metagrad.frontend.split_step import Site, site_p
from metagrad.runtime import jax_internals

Derivatives = dict[str, core.ClosedJaxpr]
"""Functions that JAX makes itself, by what they stand for: "vjp", "grad", "grad_vjp"."""


@dataclasses.dataclass(frozen=True)
class Piece:
    """A function of the cut step, or the outer function.

    Attributes:
      function: as it is differentiated; also as it is run, if `run` is None.
      vjp: its VJP, where JAX differentiates it; of the outer function its value and VJP in one,
        which compute the forward pass once.
      run: the function as it is run, where the lowering for differentiation is another.
    """

    function: core.ClosedJaxpr
    vjp: core.ClosedJaxpr | None = None
    run: core.ClosedJaxpr | None = None


@dataclasses.dataclass(frozen=True)
class Pieces:
    """What the module is made of, beside the losses.

    Attributes:
      update: (state, meta, batch, results of the gradients) -> (state, aux).
      inputs: for each gradient, (state, meta, batch, results of the gradients before) -> operands
        of its loss.
      outer: (state, outer arguments) -> (value, aux).
      prints, outer_prints: what the step and the outer function print (prints.py); None if nothing.
    """

    update: Piece
    inputs: tuple[Piece, ...]
    outer: Piece
    prints: core.ClosedJaxpr | None = None
    outer_prints: core.ClosedJaxpr | None = None


class Traced(NamedTuple):
    """What JAX lowered.

    Attributes:
      module: the module, its gradients cut out of the step.
      callbacks: the host functions that it calls, by the index in the calls.
      muted: formats of the prints that were left out; they are in `Pieces.prints` and
        `Pieces.outer_prints`, if those were given.
    """

    module: ir.Module
    callbacks: tuple[Callable, ...]
    muted: list[str]


@dataclasses.dataclass(frozen=True)
class Emitter:
    """Lowers jaxprs of one training step.

    Attributes:
      sites: the inner gradients.
      of_site: what JAX made for each of them.
      active: where there are cotangents.
      layout: sizes of the argument groups.
      wrt: what the metagradient is taken with respect to.
      platform: what the program is for, as JAX calls it: "cpu", "cuda", ...
      unchanged: the leaves of the state that every step returns as they came, by index.
      counters: those that depend on the step's number alone; None if there are none.
      devices: how many the program is known to be for.
      captured: the arrays that the functions capture; they are found here.
    """

    sites: Sequence[Site]
    of_site: Sequence[Derivatives]
    active: Activity
    layout: Layout
    wrt: Sequence[str]
    platform: str
    unchanged: Sequence[int] = ()
    counters: Counters | None = None
    devices: int = 1
    captured: Captured = dataclasses.field(default_factory=Captured)

    def pieces(self, cut: Pieces) -> Traced:
        """The step cut into pieces: the `cut` stage."""
        parts = {"update": cut.update, "outer": cut.outer}
        parts |= {f"inputs_{index}": piece for index, piece in enumerate(cut.inputs)}
        jaxprs, named = {}, {}
        for name, piece in parts.items():
            jaxprs[name] = piece.function
            vjp = metagrad.VALUE_AND_VJP if name == "outer" else metagrad.VJP
            for attribute, symbol, jaxpr in (
                # Pass `differentiate` writes @outer_vjp around what JAX made.
                (vjp, f"{name}_vjp_by_jax", piece.vjp),
                (metagrad.RUN, f"{name}_run", piece.run),
            ):
                if jaxpr is not None:
                    jaxprs[symbol] = jaxpr
                    named[name, attribute] = symbol
        prints = {"prints": cut.prints, "outer_prints": cut.outer_prints}
        jaxprs |= {name: jaxpr for name, jaxpr in prints.items() if jaxpr is not None}
        if self.counters is not None:
            jaxprs["counters"] = self.counters.advance
        functions_of = {
            name: (self._jitted(name, jaxpr), jaxpr.in_avals) for name, jaxpr in jaxprs.items()
        }
        step = cut.update.function.in_avals[: self.layout.step]
        if self.sites:
            readers = [functions_of[f"inputs_{index}"][0] for index in range(len(self.sites))]
            functions_of["inner"] = (_named("inner", self._inner(readers)), step)
        traced = self._lower(functions_of)
        with traced.module.context, ir.Location.unknown():
            if not self.sites:
                inputs = list(functions.get(traced.module, "update").type.inputs)
                functions.add_function(
                    traced.module, "inner", inputs[: self.layout.step], lambda _: []
                )
            for (name, attribute), symbol in named.items():
                function = functions.get(traced.module, name)
                function.attributes[attribute] = ir.FlatSymbolRefAttr.get(symbol)
        return traced

    def whole(self, step: core.ClosedJaxpr, outer: core.ClosedJaxpr) -> ir.Module:
        """The step in one piece, its gradients marked: the `traced` stage, which is only for
        reading.
        """
        jaxprs = {
            "step": stopped_values.drop_unread_derivatives(step),
            "outer": stopped_values.drop_unread_derivatives(outer),
        }
        return self._lower(
            {name: (self._jitted(name, jaxpr), jaxpr.in_avals) for name, jaxpr in jaxprs.items()}
        ).module

    def _inner(self, readers: Sequence[Callable]) -> Callable:
        """(state, meta, batch) -> results of the gradients.

        `readers` are the functions @inputs_i.
        """

        def inner(*operands):
            results: list = []
            for site, reader in zip(self.sites, readers):
                gradient = site_p.bind(*reader(*operands, *results), **site.parameters)
                results += [gradient[i] for i in site.kept]
            return results

        return inner

    def _jitted(self, name: str, jaxpr: core.ClosedJaxpr) -> Callable:
        function = jaxpr_as_fun(self.captured.lift(jaxpr))
        return _named(name, lambda *args: function(*args))

    def _lower_site(self, ctx, *operands, index, jaxpr, wrt, label):
        symbols = {
            "loss": jax_internals.lower_function(
                ctx,
                f"{_OURS}loss_{index}",
                self.captured.lift(stopped_values.drop_unread_derivatives(jaxpr)),
            )
        }
        for name, derivative in self.of_site[index].items():
            symbols[name] = jax_internals.lower_function(
                ctx, f"{_OURS}loss_{index}_{name}", self.captured.lift(derivative)
            )
        attributes = metagrad.gradient_attributes(
            symbols, wrt, self.sites[index].kept, self.active.active_operands(index), label
        )
        results = [
            ty for aval in ctx.avals_out for ty in mlir.aval_to_ir_types(ctx.module_context, aval)
        ]
        return _custom_call(metagrad.GRAD, results, operands, attributes, list(symbols.values()))

    def _lower(self, functions_of: dict[str, tuple[Callable, Sequence]]) -> Traced:
        muted: list[str] = []
        rules = (
            (site_p, self._lower_site),
            *prints.mute(muted),
            *recomputation.rules(self.platform, self.devices),
            *capabilities.overrides(),
        )

        def program(*groups):
            callables = [function for function, _ in functions_of.values()]
            return [function(*group) for function, group in zip(callables, groups)]

        avals = [avals for _, avals in functions_of.values()]
        traced = jax.jit(program, keep_unused=True).trace(*avals)
        with leaked_values.lowering():
            lowered = jax_internals.lower_with_rules(traced, rules, self.platform)
        module: Any = lowered.compiler_ir("stablehlo")
        module.context.allow_unregistered_dialects = True
        with module.context, ir.Location.unknown():
            placements.hide(module)
            ours = _rename(module, list(functions_of))
            captured.lift(module, ours)
            captured.list_types(
                module,
                [
                    ir.RankedTensorType.get(aval.shape, mlir.dtype_to_ir_type(aval.dtype))
                    for aval in self.captured.avals()
                ],
            )
            metagrad.describe(
                module,
                self.layout,
                self.wrt,
                between_steps=self.active.between_steps(),
                unchanged=self.unchanged,
                # The step in one piece has no function of its own for them.
                counters=self.counters.leaves
                if self.counters is not None and "counters" in functions_of
                else (),
            )
            module.operation.attributes["sym_name"] = ir.StringAttr.get("metagrad")
        return Traced(module, jax_internals.host_callbacks(lowered), muted)


def _named(name: str, function: Callable) -> Callable:
    """The function as one of the module's, under a name that `_rename` knows again."""
    function.__name__ = function.__qualname__ = _OURS + name
    return jax.jit(function, keep_unused=True)


_OURS = "metagrad_"
"""Before the names of our functions while JAX lowers them, to tell them from the user's."""


def _custom_call(
    target: str, results, operands, config: dict[str, ir.Attribute], called: Sequence[str]
):
    call = hlo.CustomCallOp(
        list(results),
        list(operands),
        call_target_name=ir.StringAttr.get(target),
        called_computations=ir.ArrayAttr.get([ir.FlatSymbolRefAttr.get(name) for name in called]),
        api_version=ir.IntegerAttr.get(ir.IntegerType.get_signless(32), 4),
    )
    call.attributes[functions.BACKEND_CONFIG] = ir.DictAttr.get(config)
    return call.results


_LIKE_OURS = re.compile(r"(main|step|outer|inner|inputs|loss|update|prints|counters|user)(_.*)?")
"""What our functions are called, what the passes add to that (`loss_0_vjp_0`), and how Enzyme and
JAX number a name (`inner_1`). User functions with such names get a prefix, and those with the
prefix too, so that no two names meet."""


def _rename(module: ir.Module, names: Sequence[str]) -> list[str]:
    """Names our functions, removes @main, and renames user functions that have one of our names.

    Returns the names of ours.
    """
    main = functions.get(module, "main")
    called = [
        op.callee.value for op in functions.body(main).operations if isinstance(op, func.CallOp)
    ]
    main.operation.erase()
    ours = dict(zip(called, names))
    symbols = [op.name.value for op in module.body.operations]
    for symbol in symbols:
        if symbol.startswith(f"{_OURS}loss_"):
            ours[symbol] = symbol.removeprefix(_OURS)
    renamed = dict(ours)
    for symbol in symbols:
        if symbol not in ours and _LIKE_OURS.fullmatch(symbol):
            renamed[symbol] = f"user_{symbol}"
    functions.rename(module, renamed)
    for name in ("step", "outer"):
        if (function := functions.find(module, name)) is not None:
            function.attributes["sym_visibility"] = ir.StringAttr.get("public")
    return list(ours.values())
