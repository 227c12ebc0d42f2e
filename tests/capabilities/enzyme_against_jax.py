"""Differentiates the cases in cases/ with Enzyme and with JAX, and compares, edge values included.

Reads a JSON list of `[case name, dtype]` from standard input and writes one JSON line with, per
pair, the list of differences found. It is a program of its own because Enzyme may abort the process
that calls it: `test_capabilities.py` starts it and halves the list when it dies.

For y = f(x), random x-tangents dx, cotangents c and their tangents dc, two programs are compared:

    reverse                (x, c)         -> f(x), vjp(f, x)(c)
    forward                (x, dx, c, dc) -> the derivative of `reverse` along (dx, dc);
                                             along (dx, 0) if c is constant
    reverse over reverse   (x, dx, c, dc) -> the VJP of `reverse` with the cotangents (dc, dx);
                                             only with the argument --reverse-over-reverse

Enzyme removes `ignore_derivatives` when it differentiates, and would go through it at second order.
So the pipeline runs once for each order, and between them the marks that `stop_gradient` left are
made `ignore_derivatives` again. Hiding the second order and what happens between the runs is the
compiler's own code (compiler/passes/expand.py).

One module holds all the cases of a call, so that the Enzyme pipeline and XLA run once.
Cost: about 0.15 s for a case, most of it XLA's compilation of the module and of JAX's reference.
"""

import json
import os
import sys
from pathlib import Path

# The comparison is of derivatives, not of speed: compile fast.
sys.path.insert(0, str(Path(__file__).parents[1]))
from fast_xla import FAST

os.environ.setdefault("XLA_FLAGS", FAST)

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import jaxpr_as_fun
from jaxlib import xla_client
from jaxlib.mlir import ir
from jaxlib.mlir.dialects import func

from metagrad.compiler.dialect import placements, stopped
from metagrad.compiler.enzyme.pipelines import FIRST_ORDER, SECOND_ORDER
from metagrad.compiler.enzyme.worker import WORKER
from metagrad.compiler.passes import expand, raise_gradients
from metagrad.compiler.passes.for_enzyme import scalar_slices
from metagrad.frontend.jaxprs import hi_primitives
from metagrad.runtime import jax_internals
from metagrad.runtime.jax_internals import ir_context


def is_float(x):
    return jnp.issubdtype(x.dtype, jnp.floating)


def activities(names):
    return ir.ArrayAttr.get([ir.Attribute.parse(f"#enzyme<activity<enzyme_{n}>>") for n in names])


def differentiate(mode, fn, operands, results, active, returned):
    """Builds `enzyme.autodiff` or `enzyme.fwddiff` of the function named `fn`."""
    return ir.Operation.create(
        f"enzyme.{mode}",
        results=results,
        operands=operands,
        attributes={
            "fn": ir.FlatSymbolRefAttr.get(fn),
            "activity": activities(active),
            "ret_activity": activities(returned),
        },
    ).results


class Job:
    """One case at one dtype: its inputs, and JAX's answers as functions of the inputs."""

    def __init__(self, case, dtype, over):
        self.case, self.fn, self.over = case, case.fn, over
        rng = np.random.default_rng(len(case.name))
        self.x = [
            jnp.asarray(a, dtype) if np.asarray(a).dtype == np.float64 else jnp.asarray(a)
            for a in case.inputs
        ]
        self.active = [is_float(a) for a in self.x]

        def draw(a):
            return jnp.asarray(
                rng.uniform(0.5, 1.5, a.shape) * rng.choice([-1, 1], a.shape), a.dtype
            )

        y = jax.eval_shape(self.outputs, *self.x)
        self.dx = [draw(a) for a in self.x if is_float(a)]
        self.c = [draw(a) for a in y]
        self.dc = [draw(a) for a in y]
        if case.cotangents is not None:
            self.c = [jnp.broadcast_to(jnp.asarray(case.cotangents, a.dtype), a.shape) for a in y]
        self.flat = [*self.x, *self.dx, *self.c, *self.dc]

    def outputs(self, *x):
        return jax.tree.leaves(self.fn(*x))

    def split(self, flat):
        sizes = np.cumsum([len(self.x), len(self.dx), len(self.c)])
        return (
            flat[: sizes[0]],
            flat[sizes[0] : sizes[1]],
            flat[sizes[1] : sizes[2]],
            flat[sizes[2] :],
        )

    def jax_answers(self, *flat):
        x, dx, c, dc = self.split(flat)

        def reverse(floats, c):
            remaining = iter(floats)
            full = [next(remaining) if a else v for a, v in zip(self.active, x)]
            y, pull = jax.vjp(lambda *fl: self.outputs(*self.merge(full, fl)), *floats)
            return [*y, *pull(list(c))]

        floats = [v for v, a in zip(x, self.active) if a]
        if self.case.orders != 2:
            return [reverse(floats, c), [], []]
        if self.over == "reverse":
            values, pull = jax.vjp(lambda f, c: reverse(f, c), floats, list(c))
            return [values, [leaf for part in pull([*dc, *dx]) for leaf in part], []]
        first, both = jax.jvp(reverse, (floats, list(c)), (list(dx), list(dc)))
        _, alone = jax.jvp(lambda f: reverse(f, c), (floats,), (list(dx),))
        return [first, both, alone]

    def merge(self, full, floats):
        remaining = iter(floats)
        return [next(remaining) if a else v for a, v in zip(self.active, full)]

    # --- Enzyme's program -------------------------------------------------------------------------

    def lower_into(self, module, name, overrides):
        """Adds `@name` (the case) and `@name_reverse` (its vjp) to the module."""
        function = jaxpr_as_fun(hi_primitives.low(jax.make_jaxpr(self.outputs)(*self.x)))
        traced = jax.jit(lambda *x: function(*x), keep_unused=True).trace(*self.x)
        lowered = jax_internals.lower_with_rules(traced, overrides, "cpu").compiler_ir("stablehlo")
        with lowered.context, ir.Location.unknown():
            scalar_slices.run(lowered)
            placements.hide(lowered)
        source = ir.Module.parse(lowered.operation.get_asm(enable_debug_info=True))
        symbols = [ir.StringAttr(op.attributes["sym_name"]).value for op in source.body.operations]
        for s in symbols:
            ir.SymbolTable.replace_all_symbol_uses(s, self.rename(s, name), source.operation)
        for op in source.body.operations:
            new = op.operation.clone(ir.InsertionPoint(module.body))
            s = ir.StringAttr(op.attributes["sym_name"]).value
            new.attributes["sym_name"] = ir.StringAttr.get(self.rename(s, name))
            new.attributes["sym_visibility"] = ir.StringAttr.get("private")
            if s == "main":
                kind = ir.FunctionType(ir.TypeAttr(op.attributes["function_type"]).value)
        self.name, self.types, self.results = name, list(kind.inputs), list(kind.results)
        gradients = [t for t, a in zip(self.types, self.active) if a]
        with ir.InsertionPoint(module.body):
            reverse = func.FuncOp(
                f"{name}_reverse",
                (self.types + self.results, self.results + gradients),
                visibility="private",
            )
        with ir.InsertionPoint(reverse.add_entry_block()):
            outs = differentiate(
                "autodiff",
                name,
                list(reverse.arguments),
                self.results + gradients,
                ["active" if a else "const" for a in self.active],
                ["active"] * len(self.results),
            )
            func.ReturnOp(list(outs))
        self.reverse_results = self.results + gradients

    def flat_types(self):
        tangents = [t for t, a in zip(self.types, self.active) if a]
        return [*self.types, *tangents, *self.results, *self.results]

    @staticmethod
    def rename(symbol, name):
        return name if symbol == "main" else f"{name}__{symbol}"

    def call_in(self, arguments):
        """Emits the two programs inside @main; gives their results."""
        x, dx, c, dc = self.split(list(arguments))
        first = func.CallOp(self.reverse_results, f"{self.name}_reverse", [*x, *c]).results
        both = alone = []
        if self.case.orders == 2 and self.over == "reverse":
            both = self.reverse_again(x, dx, c, dc)
        elif self.case.orders == 2:
            both = self.forward(x, dx, c, dc)
            alone = self.forward(x, dx, c, None)
        return [list(first), list(both), list(alone)]

    def forward(self, x, dx, c, dc):
        operands, active, tangents = [], [], iter(dx)
        for v, a in zip(x, self.active):
            operands += [v, next(tangents)] if a else [v]
            active.append("dup" if a else "const")
        for i, v in enumerate(c):
            operands += [v, dc[i]] if dc else [v]
            active.append("dup" if dc else "const")
        return self.hidden("fwddiff", operands, self.reverse_results, active, "dupnoneed")

    def reverse_again(self, x, dx, c, dc):
        active = ["active" if a else "const" for a in self.active] + ["active"] * len(c)
        results = [t for t, a in zip([*self.types, *self.results], active) if a == "active"]
        return self.hidden("autodiff", [*x, *c, *dc, *dx], results, active, "activenoneed")

    def hidden(self, mode, operands, results, active, returned):
        """Hides it from the first run of the Enzyme pass, as the compiler does.

        So what is stopped can be stopped again between the two orders.
        """
        of_results = [returned] * len(self.reverse_results)
        derivatives = differentiate(
            mode, f"{self.name}_reverse", operands, results, active, of_results
        )
        return expand.hide(derivatives[0].owner)


def enzyme_module(jobs, overrides):
    with ir_context() as context, ir.Location.unknown(context):
        context.allow_unregistered_dialects = True
        module = ir.Module.create()
        for i, job in enumerate(jobs):
            job.lower_into(module, f"case{i}", overrides)
        types = [t for j in jobs for t in j.flat_types()]
        results = []
        with ir.InsertionPoint(module.body):
            main = func.FuncOp("main", (types, []), visibility="public")
        with ir.InsertionPoint(main.add_entry_block()):
            arguments = iter(main.arguments)
            for job in jobs:
                for part in job.call_in([next(arguments) for _ in job.flat]):
                    results += part
            func.ReturnOp(results)
        main.attributes["function_type"] = ir.TypeAttr.get(
            ir.FunctionType.get(types, [r.type for r in results])
        )
        raise_gradients.run(module)
        return module.operation.get_asm(enable_debug_info=True)


def restore_main(module):
    """The pass pipeline gives `main` back under another name, and private."""
    for op in module.body.operations:
        if ir.StringAttr(op.attributes["sym_name"]).value.startswith("main"):
            op.attributes["sym_name"] = ir.StringAttr.get("main")
            op.attributes["sym_visibility"] = ir.StringAttr.get("public")


def between_orders(text):
    """Does what the compiler does between the two runs.

    It renews `ignore_derivatives` at the marks, and shows Enzyme the second differentiations.
    """
    with ir_context() as context, ir.Location.unknown(context):
        context.allow_unregistered_dialects = True
        module = ir.Module.parse(text)
        restore_main(module)
        expand.between_orders(module)
        return module.operation.get_asm(enable_debug_info=True)


def run_module(text, arguments):
    with ir_context() as context, ir.Location.unknown(context):
        context.allow_unregistered_dialects = True
        module = ir.Module.parse(text)
        stopped.remove_marks(module)
        placements.show(module)
        restore_main(module)
        client = jax.devices()[0].client
        loaded = client.compile_and_load(
            str(module), client.local_devices()[:1], xla_client.CompileOptions()
        )
    return [np.asarray(a) for a in loaded.execute(arguments)]


def differences(got, want, tolerance, floor, operands=None, cotangent=None):
    """Where Enzyme's values are not JAX's, by kind.

    Kinds: "differs" is a failure; "inf against nan" is not finite in both; "nan at infinity" is a
    NaN of Enzyme's for a number of JAX's. With `operands` and `cotangent`, for an elementwise
    function, an element with an infinite or undefined operand may be NaN ("nan at infinity"), and
    is not looked at if its cotangent is not finite either.
    """
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    finite = np.isfinite(want) & np.isfinite(got)
    scale = np.maximum(np.abs(want), floor)
    with np.errstate(all="ignore"):
        same = np.where(
            finite,
            np.abs(got - want) <= tolerance * scale,
            (got == want) | (np.isnan(got) & np.isnan(want)),
        )
    neither = ~np.isfinite(want) & ~np.isfinite(got)
    beyond = np.zeros(got.shape, bool)
    if operands is not None:
        ordinary = np.all([np.isfinite(x) for x in operands], axis=0)
        beyond = ~ordinary & np.isnan(got)
        same |= ~ordinary & ~np.isfinite(cotangent)
    kinds = {
        "differs": ~same & ~neither & ~beyond,
        "inf against nan": ~same & neither,
        "nan at infinity": ~same & ~neither & beyond,
    }
    return {kind: np.argwhere(where) for kind, where in kinds.items() if where.any()}, got, want


PARTS = {
    "forward": ("reverse", "forward", "forward, constant cotangent"),
    "reverse": ("reverse", "reverse over reverse", ""),
}
# Relative to the number, and to no less than the second entry: what cancels keeps the rounding
# error of its parts.
TOLERANCE = {"float64": (1e-12, 1e-2), "float32": (1e-5, 1.0), "bfloat16": (4e-2, 1.0)}


def compare(pairs, all_cases, overrides, over="forward"):
    jobs = [Job(all_cases[name], dtype, over) for name, dtype in pairs]
    text = enzyme_module(jobs, overrides)
    text = WORKER.run("main", text, FIRST_ORDER)
    text = WORKER.run("main", between_orders(text), SECOND_ORDER)
    sizes = np.cumsum([0] + [len(j.flat) for j in jobs])
    flat = [a for j in jobs for a in j.flat]
    want = jax.jit(lambda *f: [j.jax_answers(*f[a:b]) for j, a, b in zip(jobs, sizes, sizes[1:])])(
        *flat
    )
    got = iter(run_module(text, flat))
    report = []
    for job, (name, dtype), parts in zip(jobs, pairs, want):
        case_differences, (tolerance, floor) = [], TOLERANCE[dtype]
        for part, answers in zip(PARTS[over], parts):
            for i, answer in enumerate(answers):
                value = next(got)
                elementwise = (job.x, job.c[0]) if job.case.elementwise else ()
                kinds, g, w = differences(
                    value, answer, tolerance * job.case.loosen, floor, *elementwise
                )
                # The value of the function itself must not move by a bit.
                what = f"value {i}" if part == "reverse" and i < len(job.c) else f"{part} {i}"
                if what.startswith("value"):
                    moved = np.argwhere(
                        ~((g == w) & (np.signbit(g) == np.signbit(w)) | (np.isnan(g) & np.isnan(w)))
                    )
                    kinds = {"differs": moved} if len(moved) and not job.case.rounded else kinds
                for kind, places in kinds.items():
                    first = [
                        (tuple(map(int, p)), float(g[tuple(p)]), float(w[tuple(p)]))
                        for p in places[:3]
                    ]
                    case_differences.append(
                        {"what": what, "kind": kind, "count": len(places), "first": first}
                    )
        report.append({"case": name, "dtype": dtype, "differences": case_differences})
    return report


def main():
    jax.config.update("jax_enable_x64", True)
    from cases import CASES

    from metagrad.frontend.capabilities import overrides

    pairs = json.load(sys.stdin)
    print(
        json.dumps(
            compare(
                pairs,
                CASES,
                overrides(),
                "reverse" if "--reverse-over-reverse" in sys.argv else "forward",
            )
        )
    )


if __name__ == "__main__":
    main()
