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
are one stacked buffer per leaf and are updated in place. The `state` that is carried and stored has
the leaves that change; schedule_state.py says where the others come from.

Results of @main: value, outer aux; the gradient (float leaves of what `metagrad.wrt` names: state,
then meta, then batches); the final state; the step's aux, stacked over steps.
"""

from __future__ import annotations

from jaxlib.mlir import ir
from jaxlib.mlir.dialects import stablehlo as hlo

from metagrad.compiler.dialect import captured, functions, metagrad
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
from metagrad.compiler.dialect.metagrad import Layout
from metagrad.compiler.passes.schedule_cotangents import NAMES as COTANGENTS
from metagrad.compiler.passes.schedule_cotangents import Cotangents
from metagrad.compiler.passes.schedule_state import StateLeaves
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
        self.inner, self.update, self.step_vjp, self.outer_vjp = (
            functions.need(module, name, NAME)
            for name in ("inner", "update", "step_vjp", "outer_vjp")
        )
        self.prints, self.outer_prints = (
            functions.find(module, "prints"),
            functions.find(module, "outer_prints"),
        )
        self.state = StateLeaves(module, NAME)
        self.cotangents = Cotangents(module, self.step_vjp)

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
        self.state.begin(state0, self.meta, plan.steps)
        stored0 = self.state.stored_of(state0)
        outer_results = list(self.outer_vjp.type.results)[: -len(self.cotangents.state) or None]
        aux_types = list(self.update.type.results)[n.state :]
        carry: Carry = {
            "inner": [zeros(ty) for ty in self.inner.type.results],
            "state_slots": [
                set_row(empty(plan.state_slots, leaf.type), index(0), leaf) for leaf in stored0
            ],
            "gradient_slots": [empty(plan.gradient_slots, ty) for ty in self.inner.type.results]
            if plan.gradient_slots
            else [],
            "outer": [zeros(ty) for ty in outer_results],
            "final": stored0,
            "aux": [empty(plan.steps, ty) for ty in aux_types],
        } | self.cotangents.begin(operands)
        carry = repeat(index(0), index(plan.steps + 1), carry, self.segment)
        final = self.state.at(index(plan.steps), carry["final"])
        gradient = self.cotangents.gradient(operands, carry)
        return [*carry["outer"], *gradient, *final, *carry["aux"]]

    @property
    def has_inner(self) -> bool:
        return bool(self.inner.type.results)

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
            COTANGENTS,
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
        primals = self.primals(operands["t"][0], operands["state"])
        return {"inner": functions.call(self.inner, primals)}

    def primals(self, t: ir.Value, stored: list[ir.Value]) -> list[ir.Value]:
        """The operands of the step at t, from the leaves of its state that are stored."""
        return [*self.state.at(t, stored), *self.meta, *self.batch(t)]

    def batch(self, t: ir.Value) -> list[ir.Value]:
        return [row(leaf, t) for leaf in self.batches]

    def apply(self, carry: Carry, operands: Carry) -> Carry:
        t = carry["t"][0]
        if self.prints is not None:
            # A step that is made again from its kept gradient alone is not run.
            seen = {"t": [t], "state": carry["state"]}
            once_if(compare(operands["reuse"][0], "LT", index(0)), {}, seen, self.print)
        primals = self.primals(t, carry["state"])
        results = functions.call(self.update, [*primals, *operands["inner"]])
        state, aux = results[: self.layout.state], results[self.layout.state :]
        return {
            "state": self.state.stored_of(state),
            "aux": [set_row(stack, t, leaf) for stack, leaf in zip(carry["aux"], aux)],
            "t": [hlo.add(t, index(1))],
        }

    def print(self, _: Carry, operands: Carry) -> Carry:
        assert self.prints is not None, "called only where the step prints"
        functions.call(self.prints, self.primals(operands["t"][0], operands["state"]))
        return {}

    def reach_the_end(self, _: Carry, operands: Carry) -> Carry:
        state = self.state.at(index(self.plan.steps), operands["state"])
        if self.outer_prints is not None:
            functions.call(self.outer_prints, [*state, *self.outer_arguments])
        results = functions.call(self.outer_vjp, [*state, *self.outer_arguments])
        split = len(results) - len(self.cotangents.state)
        return {"state_bar": results[split:], "outer": results[:split], "final": operands["state"]}

    def reverse(self, carry: Carry, operands: Carry) -> Carry:
        t = operands["t"][0]
        primals = self.primals(t, operands["state"])
        results = functions.call(self.step_vjp, [*primals, *operands["inner"], *carry["state_bar"]])
        return self.cotangents.add(carry, t, results)


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
