"""The loop that trains and goes back, around calls of the step's pieces. It reads a plan from
tables (runtime/schedules/loop_tables.py), so one text serves every plan.

    for walk:
        state = state_slots[load]
        for run in runs of the walk:
            for i in 0 .. run.steps:
                @prints(state, meta, batch[t])
                inner = @inner(state, meta, batch[t])        or  gradient_slots[run.reuse + i]
                gradient_slots[run.keep + i] = inner
                state, aux = @update(state, meta, batch[t], inner)
                state_slots[run.save] = state
        after the training run:  what `at_the_end` writes, such as  value, s^ = @outer_vjp(state)
        for each VJP of the walk:
            state, inner = state_slots[..], gradient_slots[..]
            s^, z^, b^ = @step_vjp(state, meta, batch[t], inner, s^)

There is one copy of @inner, @update and @step_vjp, whatever the number of steps and the plan are.
Slots are one stacked buffer for each leaf, updated in place. The `state` that is carried and stored
has the leaves that change; schedule_state.py says where the others come from.

What a run may do or not (keep a gradient, save a state) is a loop of zero or one trips around the
write. Where the arrays are small that loop costs more than the write, and they are written in any
case: to the slot behind those of the plan, which then nothing reads.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from jaxlib.mlir import ir
from jaxlib.mlir.dialects import stablehlo as hlo

from metagrad.compiler.dialect import functions
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
    zeros,
)
from metagrad.compiler.dialect.metagrad import Layout
from metagrad.compiler.passes.schedule_cotangents import NAMES as COTANGENTS
from metagrad.compiler.passes.schedule_cotangents import Cotangents
from metagrad.compiler.passes.schedule_state import StateLeaves
from metagrad.runtime.schedules.loop_tables import Features

SMALL = 4096
"""Bytes of what is written in vain rather than decided upon: the write takes less than a
microsecond, as the loop around it does."""

Body = Callable[[Carry, Carry], Carry]


class Pieces:
    """The functions of a module that every program is made of."""

    def __init__(self, module: ir.Module, pass_name: str):
        self.module = module
        self.layout = Layout.of(module)
        self.inner, self.update, self.step_vjp, self.outer_vjp = (
            functions.need(module, name, pass_name)
            for name in ("inner", "update", "step_vjp", "outer_vjp")
        )
        self.prints, self.outer_prints = (
            functions.find(module, "prints"),
            functions.find(module, "outer_prints"),
        )
        self.state = StateLeaves(module, pass_name)
        self.cotangents = Cotangents(module, self.step_vjp)

    @property
    def has_inner(self) -> bool:
        return bool(self.inner.type.results)

    def types(self, group: str) -> list[ir.Type]:
        """The types of one step's arguments: of "state", "meta" or "batches"."""
        inputs = self.update.type.inputs  # read once: each read makes all of them anew
        return [inputs[i] for i in self.layout.arguments(group)]

    def stacked(self, steps: int) -> list[ir.Type]:
        """The types of the batches of so many steps."""
        return [
            ir.RankedTensorType.get([steps, *ty.shape], ty.element_type, ty.encoding)
            for ty in self.types("batches")
        ]

    @property
    def outer_argument_types(self) -> list[ir.Type]:
        return list(self.outer_vjp.type.inputs)[self.layout.state :]

    @property
    def outer_result_types(self) -> list[ir.Type]:
        """The types of the value and what is auxiliary beside it."""
        return list(self.outer_vjp.type.results)[: -len(self.cotangents.state) or None]

    @property
    def aux_types(self) -> list[ir.Type]:
        """The types of one step's auxiliary results."""
        return list(self.update.type.results)[self.layout.state :]


class StepCalls:
    """Calls of the step's pieces at a step t, for the operands of a program."""

    def __init__(self, pieces: Pieces, meta: list[ir.Value], batches: list[ir.Value]):
        self.pieces, self.meta, self.batches = pieces, meta, batches

    def primals(self, t: ir.Value, stored: list[ir.Value]) -> list[ir.Value]:
        """The operands of the step at t, from the leaves of its state that are stored."""
        return [*self.pieces.state.at(t, stored), *self.meta, *(row(x, t) for x in self.batches)]

    def inner(self, _: Carry, operands: Carry) -> Carry:
        primals = self.primals(operands["t"][0], operands["state"])
        return {"inner": functions.call(self.pieces.inner, primals)}

    def update(self, carry: Carry, operands: Carry) -> Carry:
        """Advances `state` and `t` of the carry by the step's update, and writes its `aux`."""
        t = carry["t"][0]
        if self.pieces.prints is not None:
            # A step that is made again from its kept gradient alone is not run.
            seen = {"t": [t], "state": carry["state"]}
            once_if(compare(operands["reuse"][0], "LT", index(0)), {}, seen, self._print)
        primals = self.primals(t, carry["state"])
        results = functions.call(self.pieces.update, [*primals, *operands["inner"]])
        size = self.pieces.layout.state
        return {
            "state": self.pieces.state.stored_of(results[:size]),
            "aux": [set_row(stack, t, leaf) for stack, leaf in zip(carry["aux"], results[size:])],
            "t": [hlo.add(t, index(1))],
        }

    def _print(self, _: Carry, operands: Carry) -> Carry:
        assert self.pieces.prints is not None, "called only where the step prints"
        functions.call(self.pieces.prints, self.primals(operands["t"][0], operands["state"]))
        return {}

    def vjp(self, t: ir.Value, carry: Carry) -> Carry:
        """The cotangents of the carry, taken back through step t."""
        primals = self.primals(t, carry["state"])
        results = functions.call(
            self.pieces.step_vjp, [*primals, *carry["inner"], *carry["state_bar"]]
        )
        return self.pieces.cotangents.add(carry, t, results)


class PlanLoop:
    """The loop that runs a plan.

    Args:
      pieces: the functions that it calls.
      calls: these with the program's operands.
      tables: the columns of `LoopTables`, as values.
      walks: the number of walks.
      steps: T.
      features: what the tables may ask for.
      state_slots, gradient_slots: the number of slots.
      names_behind: whether the tables name the slot behind those, of states and of gradients.
    """

    def __init__(
        self,
        pieces: Pieces,
        calls: StepCalls,
        tables: dict[str, ir.Value],
        walks: ir.Value,
        steps: ir.Value,
        features: Features,
        state_slots: int,
        gradient_slots: int,
        names_behind: tuple[bool, bool] = (True, True),
    ):
        self.pieces, self.calls, self.tables = pieces, calls, tables
        self.walks, self.steps, self.features = walks, steps, features
        types = pieces.types("state")
        stored = [types[i] for i in pieces.state.stored]
        self.small_state = _bytes(stored) <= SMALL
        self.small_gradient = _bytes(pieces.inner.type.results) <= SMALL
        # A slot behind takes a whole state, or gradient: none is made for nothing.
        in_vain = not features.stores_all
        self.state_slots = state_slots + (names_behind[0] or (in_vain and self.small_state))
        self.gradient_slots = gradient_slots + (
            names_behind[1] or (in_vain and self.small_gradient)
        )

    def run(
        self,
        state0: Sequence[ir.Value],
        cotangents: Carry,
        aux: list[ir.Value],
        at_the_end: Body | None,
        results: Carry,
        *,
        vjps: bool = True,
    ) -> Carry:
        """Writes the loop, at the current insertion point.

        Args:
          state0: the stored leaves of the initial state.
          cotangents: before the first VJP, or before `at_the_end` makes them.
          aux: buffers for the step's auxiliary results, or none if they are not wanted.
          at_the_end: called with the carry and `state` of the operands, after the training run;
            None: nothing happens there.
          results: what `at_the_end` changes beside `state_bar`.
          vjps: whether anything is reversed.

        Returns:
          `cotangents`, `results` and `aux` after the last walk.
        """
        self.at_the_end, self.results, self.vjps = at_the_end, tuple(results), vjps
        gradient_types = self.pieces.inner.type.results if self.features.keeps else []
        carry: Carry = {
            "state_slots": [
                set_row(empty(self.state_slots, leaf.type), index(0), leaf) for leaf in state0
            ],
            "gradient_slots": [empty(self.gradient_slots, ty) for ty in gradient_types],
            "aux": aux,
        }
        return repeat(index(0), self.walks, carry | results | cotangents, self._walk)

    def _walk(self, w: ir.Value, carry: Carry) -> Carry:
        column = lambda name: entry(self.tables[f"walk_{name}"], w)
        next_of = lambda name: entry(self.tables[f"walk_{name}"], hlo.add(w, index(1)))
        slot = column("load")
        running = {name: carry[name] for name in ("state_slots", "gradient_slots", "aux")}
        running["state"] = [row(slots, slot) for slots in carry["state_slots"]]
        running["t"] = [column("start")]
        running = repeat(column("run"), next_of("run"), running, self._run)
        state = running.pop("state")
        running.pop("t")
        carry = carry | running
        if self.at_the_end is not None:
            carry = _once_if(
                compare(w, "EQ", index(0)),
                carry,
                self.at_the_end,
                ("state_bar", *self.results),
                {"state": state},
            )

        if not self.vjps:
            return carry

        def back(r: ir.Value, cotangents: Carry) -> Carry:
            at = {name: entry(self.tables[f"vjp_{name}"], r) for name in ("state", "gradient")}
            primals = {
                "state": [row(slots, at["state"]) for slots in carry["state_slots"]],
                "inner": [row(slots, at["gradient"]) for slots in carry["gradient_slots"]],
            }
            return self.calls.vjp(hlo.subtract(self.steps, r), primals | cotangents)

        first = hlo.maximum(column("segment"), index(1))
        cotangents = {name: carry[name] for name in COTANGENTS}
        return carry | repeat(first, next_of("segment"), cotangents, back)

    def _run(self, q: ir.Value, carry: Carry) -> Carry:
        steps, save, stride, keep, reuse, update = (
            entry(self.tables[f"run_{name}"], q)
            for name in ("steps", "save", "stride", "keep", "reuse", "update")
        )
        last = hlo.subtract(steps, index(1))
        none = index(-1)

        def one(i: ir.Value, carry: Carry) -> Carry:
            inner = self._gradient(i, reuse, carry)
            if self.features.keeps:
                at = hlo.add(keep, i)
                if not self.features.stores_all:
                    at = hlo.select(compare(keep, "GE", index(0)), at, none)
                carry = self._write("gradient_slots", at, inner, carry, self.small_gradient)
            operands = {"inner": inner, "reuse": [reuse]}
            flag = compare(update, "EQ", index(1))
            carry = self._update(self.features.on_the_spot, flag, carry, operands)
            at = hlo.add(save, hlo.multiply(stride, i))
            if not self.features.stores_all:
                saves = hlo.or_(compare(stride, "EQ", index(1)), compare(i, "EQ", last))
                at = hlo.select(hlo.and_(saves, compare(save, "GE", index(0))), at, none)
            return self._write("state_slots", at, carry["state"], carry, self.small_state)

        return repeat(index(0), steps, carry, one)

    def _gradient(self, i: ir.Value, reuse: ir.Value, carry: Carry) -> list[ir.Value]:
        """The inner gradient: computed here, or loaded from its slot."""
        if not self.pieces.has_inner:
            return []
        computed = {"state": carry["state"], "t": carry["t"]}
        if not self.features.reuses:
            return self.calls.inner({}, computed)["inner"]
        inner: Carry = {"inner": [zeros(ty) for ty in self.pieces.inner.type.results]}
        inner = once_if(compare(reuse, "LT", index(0)), inner, computed, self.calls.inner)
        loaded: Carry = {"at": [hlo.add(reuse, i)], "slots": carry["gradient_slots"]}
        return once_if(compare(reuse, "GE", index(0)), inner, loaded, _load_rows)["inner"]

    def _update(self, is_optional: bool, flag: ir.Value, carry: Carry, operands: Carry) -> Carry:
        """The update, if the flag is set."""
        names = ("state", "aux", "t")
        part = {name: carry[name] for name in names}
        if not is_optional:
            return carry | self.calls.update(part, operands)
        if not self.small_state or part["aux"] or self.pieces.prints is not None:
            return _once_if(flag, carry, self.calls.update, names, operands)
        after = self.calls.update(part, operands)
        return carry | {
            name: [hlo.select(flag, new, old) for new, old in zip(after[name], part[name])]
            for name in names
        }

    def _write(
        self, name: str, at: ir.Value, rows: list[ir.Value], carry: Carry, small: bool
    ) -> Carry:
        """Writes a row of slots if it has a number, `at`; small ones behind the slots if not."""
        if not carry[name]:
            return carry
        if self.features.stores_all:
            return carry | _set_rows(name)(carry, {"at": [at], "rows": rows})
        if not small:
            operands: Carry = {"at": [at], "rows": rows}
            return _once_if(compare(at, "GE", index(0)), carry, _set_rows(name), (name,), operands)
        behind = index(carry[name][0].type.shape[0] - 1)
        at = hlo.select(compare(at, "GE", index(0)), at, behind)
        return carry | _set_rows(name)(carry, {"at": [at], "rows": rows})


def _once_if(
    condition: ir.Value, carry: Carry, body: Body, names: tuple[str, ...], operands: Carry
) -> Carry:
    """`loops.once_if` on the part of the carry that the body changes."""
    part = {name: carry[name] for name in names}
    return carry | once_if(condition, part, operands, body) if any(part.values()) else carry


def _set_rows(name: str) -> Body:
    """A body that writes `rows` into row `at` of the carry's buffers."""
    return lambda carry, operands: {
        name: [
            set_row(stack, operands["at"][0], leaf)
            for stack, leaf in zip(carry[name], operands["rows"])
        ]
    }


def _load_rows(_: Carry, operands: Carry) -> Carry:
    """A body that reads an inner gradient, row `at` of the operands' buffers."""
    return {"inner": [row(stack, operands["at"][0]) for stack in operands["slots"]]}


def _bytes(types: Sequence[ir.Type]) -> int:
    """What arrays of these types take, a bit as a byte."""
    sizes: list[int] = [math.prod(ty.shape) * _element_bytes(ty.element_type) for ty in types]
    return sum(sizes)


def _element_bytes(element: ir.Type) -> int:
    if isinstance(element, ir.ComplexType):
        return 2 * _element_bytes(element.element_type)
    return max(1, element.width // 8)
