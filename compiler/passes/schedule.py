"""The rematerialisation pass: writes @main, the whole run and its reversal, around calls of the
step's pieces.

    for r in 0 .. T:                       # segment 0 is the training run, segment r > 0
                                           # prepares the VJP at t = T - r
        state = state_slots[load[r]]
        for run in runs of segment r:
            for i in 0 .. run.steps:
                @prints(state, meta, batch[t])
                inner  = @inner(state, meta, batch[t])
                gradient_slots[run.keep + i] = inner
                state, aux = @update(state, meta, batch[t], inner)
            state_slots[run.save] = state
        if r == 0:  value, s^ = @outer_vjp(state)
        else:       s^, z^, b^ = @step_vjp(state, meta, batch[T - r], inner, s^)

A run that reuses gradients takes `inner` from gradient_slots[run.reuse + i] instead, and does not
print. Gradients and states are stored where the run keeps or saves them. @prints is called where
the step prints.

Every schedule is this one loop with other tables, so the program holds one copy of @inner, @update
and @step_vjp whatever T and the schedule are. The gradient that the VJP needs is a last run that
stops before the update: it is loaded from its slot, or computed by the same copy of @inner. Slots
are one stacked buffer per leaf and are updated in place.

Results of @main: value, outer aux; the gradient (float leaves of what `metagrad.wrt` names: state,
then meta, then batches); the final state; the step's aux, stacked over steps.
"""

from __future__ import annotations

from jaxlib.mlir import ir
from jaxlib.mlir.dialects import stablehlo as hlo

from metagrad.compiler.dialect import captured, functions, metagrad
from metagrad.compiler.dialect.functions import is_float
from metagrad.compiler.dialect.loops import (
    Carry,
    compare,
    empty,
    entry,
    index,
    once_if,
    repeat,
    row,
    set_row,
    table,
    zeros,
)
from metagrad.compiler.dialect.metagrad import Layout, between_steps_of, wrt_of
from metagrad.compiler.passes.schedule_tables import loop_tables
from metagrad.runtime.schedules.plan import Plan

NAME = "schedule"


def run(module: ir.Module, plan: Plan) -> None:
    _Writer(module, plan).write()
    captured.become_arguments(module, "main")
    functions.drop_unreachable(module, ["main"])
    # What only the passes needed goes: XLA's parser does not know it.
    for owner in (module.operation, *module.body.operations):
        metagrad.strip(owner)


class _Writer:
    """The pieces of one module, and the code around them."""

    def __init__(self, module: ir.Module, plan: Plan):
        self.module, self.plan = module, plan
        self.layout = Layout.of(module)
        self.wrt = wrt_of(module)
        self.inner, self.update, self.step_vjp, self.outer_vjp = (
            functions.need(module, name, NAME)
            for name in ("inner", "update", "step_vjp", "outer_vjp")
        )
        self.prints, self.outer_prints = (
            functions.find(module, "prints"),
            functions.find(module, "outer_prints"),
        )
        self.active = between_steps_of(module)
        self.active_meta, self.active_batch = (
            [i for i, ty in enumerate(self.types(group)) if is_float(ty)]
            if group in self.wrt
            else []
            for group in ("meta", "batches")
        )

    def types(self, group: str) -> list[ir.Type]:
        return [self.update.type.inputs[i] for i in self.layout.arguments(group)]

    def write(self) -> None:
        stacked = [
            ir.RankedTensorType.get([self.plan.steps, *ty.shape], ty.element_type, ty.encoding)
            for ty in self.types("batches")
        ]
        outer_arguments = list(self.outer_vjp.type.inputs)[self.layout.state :]
        inputs = [*self.types("state"), *self.types("meta"), *stacked, *outer_arguments]
        functions.add_function(self.module, "main", inputs, self.build, visibility="public")

    def build(self, operands: list[ir.Value]) -> list[ir.Value]:
        n, plan = self.layout, self.plan
        integers = loop_tables(plan, gradients=self.has_inner)
        self.tables = {name: table(values) for name, values in integers.items()}
        state0 = operands[: n.state]
        self.meta = operands[n.state : n.state + n.meta]
        self.batches = operands[n.state + n.meta : n.step]
        self.outer_arguments = operands[n.step :]
        outer_results = list(self.outer_vjp.type.results)[: -len(self.active) or None]
        aux_types = list(self.update.type.results)[n.state :]
        carry: Carry = {
            "inner": [zeros(ty) for ty in self.inner.type.results],
            "state_slots": [
                set_row(empty(plan.state_slots, leaf.type), index(0), leaf) for leaf in state0
            ],
            "gradient_slots": [empty(plan.gradient_slots, ty) for ty in self.inner.type.results]
            if plan.gradient_slots
            else [],
            "state_bar": [zeros(state0[i].type) for i in self.active],
            "meta_bar": [zeros(self.meta[i].type) for i in self.active_meta],
            "batch_bar": [zeros(self.batches[i].type) for i in self.active_batch],
            "outer": [zeros(ty) for ty in outer_results],
            "final": state0,
            "aux": [empty(plan.steps, ty) for ty in aux_types],
        }
        carry = repeat(index(0), index(plan.steps + 1), carry, self.segment)
        return [*carry["outer"], *self.gradient(state0, carry), *carry["final"], *carry["aux"]]

    @property
    def has_inner(self) -> bool:
        return bool(self.inner.type.results)

    def gradient(self, state0: list[ir.Value], carry: Carry) -> list[ir.Value]:
        result: list[ir.Value] = []
        if "state" in self.wrt:
            of_leaf = dict(zip(self.active, carry["state_bar"]))
            floats = [i for i, leaf in enumerate(state0) if is_float(leaf.type)]
            result += [of_leaf[i] if i in of_leaf else zeros(state0[i].type) for i in floats]
        return result + carry["meta_bar"] + carry["batch_bar"]

    def segment(self, r: ir.Value, carry: Carry) -> Carry:
        slot = entry(self.tables["load"], r)
        running = {name: carry[name] for name in ("inner", "state_slots", "gradient_slots", "aux")}
        running["state"] = [row(slots, slot) for slots in carry["state_slots"]]
        running["t"] = [entry(self.tables["start"], r)]
        first, bound = (
            entry(self.tables["segment"], r),
            entry(self.tables["segment"], hlo.add(r, index(1))),
        )
        running = repeat(first, bound, running, self.advance)
        state = running.pop("state")
        running.pop("t")
        carry = carry | running
        carry = self.once_if(
            compare(r, "EQ", index(0)),
            carry,
            self.reach_the_end,
            ("state_bar", "outer", "final"),
            {"state": state},
        )
        return self.once_if(
            compare(r, "GT", index(0)),
            carry,
            self.reverse,
            ("state_bar", "meta_bar", "batch_bar"),
            {
                "state": state,
                "inner": carry["inner"],
                "t": [hlo.subtract(index(self.plan.steps), r)],
            },
        )

    @staticmethod
    def once_if(
        condition: ir.Value, carry: Carry, body, names: tuple[str, ...], operands: Carry
    ) -> Carry:
        """`loops.once_if` on the part of the carry that the body changes."""
        part = {name: carry[name] for name in names}
        return carry | once_if(condition, part, operands, body) if any(part.values()) else carry

    def advance(self, q: ir.Value, carry: Carry) -> Carry:
        steps, save, keep, reuse, update = (
            entry(self.tables[f"run_{name}"], q)
            for name in ("steps", "save", "keep", "reuse", "update")
        )

        def one(i: ir.Value, carry: Carry) -> Carry:
            carry = self.take_gradient(i, keep, reuse, carry)
            return self.once_if(
                compare(update, "EQ", index(1)),
                carry,
                self.apply,
                ("state", "aux", "t"),
                {"inner": carry["inner"], "reuse": [reuse]},
            )

        carry = repeat(index(0), steps, carry, one)
        return self.once_if(
            compare(save, "GE", index(0)),
            carry,
            _set_rows("state_slots"),
            ("state_slots",),
            {"at": [save], "rows": carry["state"]},
        )

    def take_gradient(self, i: ir.Value, keep: ir.Value, reuse: ir.Value, carry: Carry) -> Carry:
        """inner := computed here, or loaded from its slot; and stored if the run keeps it."""
        if not self.has_inner:
            return carry
        computed = {"state": carry["state"], "t": carry["t"]}
        if not self.plan.gradient_slots:
            return carry | self.compute_gradient({}, computed)
        carry = self.once_if(
            compare(reuse, "LT", index(0)), carry, self.compute_gradient, ("inner",), computed
        )
        loaded: Carry = {"at": [hlo.add(reuse, i)], "slots": carry["gradient_slots"]}
        carry = self.once_if(
            compare(reuse, "GE", index(0)), carry, _load_rows("inner"), ("inner",), loaded
        )
        kept: Carry = {"at": [hlo.add(keep, i)], "rows": carry["inner"]}
        return self.once_if(
            compare(keep, "GE", index(0)),
            carry,
            _set_rows("gradient_slots"),
            ("gradient_slots",),
            kept,
        )

    def compute_gradient(self, _: Carry, operands: Carry) -> Carry:
        batch = self.batch(operands["t"][0])
        return {"inner": functions.call(self.inner, [*operands["state"], *self.meta, *batch])}

    def batch(self, t: ir.Value) -> list[ir.Value]:
        return [row(leaf, t) for leaf in self.batches]

    def apply(self, carry: Carry, operands: Carry) -> Carry:
        t = carry["t"][0]
        if self.prints is not None:
            # A step that is made again from its kept gradient alone is not run.
            seen = {"state": carry["state"], "batch": self.batch(t)}
            once_if(compare(operands["reuse"][0], "LT", index(0)), {}, seen, self.print)
        results = functions.call(
            self.update, [*carry["state"], *self.meta, *self.batch(t), *operands["inner"]]
        )
        state, aux = results[: self.layout.state], results[self.layout.state :]
        return {
            "state": state,
            "aux": [set_row(stack, t, leaf) for stack, leaf in zip(carry["aux"], aux)],
            "t": [hlo.add(t, index(1))],
        }

    def print(self, _: Carry, operands: Carry) -> Carry:
        assert self.prints is not None, "called only where the step prints"
        functions.call(self.prints, [*operands["state"], *self.meta, *operands["batch"]])
        return {}

    def reach_the_end(self, _: Carry, operands: Carry) -> Carry:
        if self.outer_prints is not None:
            functions.call(self.outer_prints, [*operands["state"], *self.outer_arguments])
        results = functions.call(self.outer_vjp, [*operands["state"], *self.outer_arguments])
        split = len(results) - len(self.active)
        return {"state_bar": results[split:], "outer": results[:split], "final": operands["state"]}

    def reverse(self, carry: Carry, operands: Carry) -> Carry:
        t = operands["t"][0]
        primals = [*operands["state"], *self.meta, *self.batch(t), *operands["inner"]]
        results = functions.call(self.step_vjp, [*primals, *carry["state_bar"]])
        a, m = len(self.active), len(self.active_meta)
        state_bar, meta_bar, batch_bar = results[:a], results[a : a + m], results[a + m :]
        return {
            "state_bar": state_bar,
            "meta_bar": [hlo.add(total, more) for total, more in zip(carry["meta_bar"], meta_bar)],
            "batch_bar": [
                set_row(stack, t, leaf) for stack, leaf in zip(carry["batch_bar"], batch_bar)
            ],
        }


def _set_rows(name: str):
    """A body that writes `rows` into row `at` of the carry's buffers."""
    return lambda carry, operands: {
        name: [
            set_row(stack, operands["at"][0], leaf)
            for stack, leaf in zip(carry[name], operands["rows"])
        ]
    }


def _load_rows(name: str):
    """A body that reads row `at` of the operands' buffers."""
    return lambda _, operands: {
        name: [row(stack, operands["at"][0]) for stack in operands["slots"]]
    }
