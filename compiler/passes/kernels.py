"""Writes one of the programs that the streamed executor runs, as @main.

The executor walks a run in segments of at most L steps, of which it brings the batches. Three
programs do all the work; which plan they serve, and of how many steps, is in their arguments:

    advance    (state, meta, batches[L], n) -> (the state n steps later, aux[L], checksums)
    outer_vjp  (state, outer arguments)     -> (value, outer aux, cotangents of the state)
    reverse    (state, meta, batches[L], tables, cotangents of the state, of meta)
                                            -> (cotangents of the state, of meta, of batches[L],
                                                checksums, aux[L])

`reverse` is the loop of schedule_loop.py over the segment: it runs the n steps again from the
state at the segment's start, and takes the cotangents back through them. Its tables are those of
runtime/schedules/segment_tables.py for a plan of n steps, in three arrays of a size for L steps.

The state that is given has all leaves. What comes back has those that steps change, `changed`; the
others are where the caller has them. Checksums are there if asked for, one for each changed leaf of
the state at the end of the segment (dialect/checksums.py). With them come one more of `advance` and
the aux of `reverse`, which only `_train` has a use for.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np
from jaxlib.mlir import ir
from jaxlib.mlir.dialects import stablehlo as hlo

from metagrad.compiler.dialect import functions
from metagrad.compiler.dialect.checksums import checksum
from metagrad.compiler.dialect.loops import Carry, empty, index, repeat, table
from metagrad.compiler.passes.schedule import finish
from metagrad.compiler.passes.schedule_cotangents import NAMES as COTANGENTS
from metagrad.compiler.passes.schedule_loop import Pieces, PlanLoop, StepCalls
from metagrad.runtime.schedules.segment_tables import RUNS, SEGMENTS, WALKS, Segment

NAME = "kernel"


def layout_of(module: ir.Module) -> dict[str, Any]:
    """The sizes of a module's groups of arguments, and which leaves the kernels carry."""
    pieces = Pieces(module, NAME)
    state_bar, meta_bar, batch_bar = map(tuple, pieces.cotangents.leaves)
    return dataclasses.asdict(pieces.layout) | {
        "changed": tuple(pieces.state.changed),
        "stored": tuple(pieces.state.stored),
        "state_bar": state_bar,
        "meta_bar": meta_bar,
        "batch_bar": batch_bar,
    }


def run(module: ir.Module, kernel: str, segment: Segment) -> None:
    pieces = Pieces(module, NAME)
    inputs, build = _BUILDERS[kernel](pieces, segment)
    functions.add_function(module, "main", inputs, build, visibility="public")
    finish(module)


def _advance(pieces: Pieces, segment: Segment):
    n, length = pieces.layout, segment.steps

    def build(operands: list[ir.Value]) -> list[ir.Value]:
        *operands, steps = operands
        calls = StepCalls(pieces, operands[n.state : n.state + n.meta], operands[-n.batch :])
        pieces.state.begin(operands[: n.state], calls.meta, length)
        if segment.checksums:
            trained = _train(pieces, calls, segment, operands[: n.state], steps)
            changed = _changed_at(pieces, steps, trained["final"])
            written = [*trained["state_slots"], *trained["gradient_slots"]]
            sums = [*_checksums(segment, changed), _sum(_checksums(segment, written))]
            return [*changed, *trained["aux"], *sums]

        def one(t: ir.Value, carry: Carry) -> Carry:
            inner = calls.inner({}, {"t": [t], "state": carry["state"]})
            return calls.update(carry | {"t": [t]}, inner | {"reuse": [index(-1)]}) | {"t": []}

        carry: Carry = {
            "state": pieces.state.stored_of(operands[: n.state]),
            "aux": [empty(length, ty) for ty in pieces.aux_types],
            "t": [],
        }
        carry = repeat(index(0), steps, carry, one)
        return [*_changed_at(pieces, steps, carry["state"]), *carry["aux"]]

    return [*_step_arguments(pieces, length), _index_type()], build


def _train(
    pieces: Pieces, calls: StepCalls, segment: Segment, state0: list[ir.Value], steps: ir.Value
) -> Carry:
    """`reverse` without its VJPs, over one run of some steps.

    What XLA fuses with a step decides how it rounds. So where the states of `advance` and `reverse`
    are to have the same bits, the steps stand in the same loop. What it writes to slots is written
    here too, to one slot, of which a checksum is a result: else XLA would leave the writes out.
    """
    one = lambda value: table(np.array([value]))
    writes = 0 if segment.features.stores_all else -1
    tables = {
        "walk_load": one(0),
        "walk_start": one(0),
        "walk_run": table(np.array([0, 1])),
        "walk_segment": table(np.array([0, 1])),
        "run_steps": hlo.reshape(ir.RankedTensorType.get([1], _index_element()), steps),
        "run_save": one(writes),
        "run_stride": one(0),
        "run_keep": one(writes),
        "run_reuse": one(-1),
        "run_update": one(1),
    }
    slots = 1, int(segment.features.keeps)
    loop = PlanLoop(pieces, calls, tables, index(1), steps, segment.features, *slots)
    stored0 = pieces.state.stored_of(state0)
    nothing: Carry = {name: [] for name in COTANGENTS}
    aux = [empty(segment.steps, ty) for ty in pieces.aux_types]
    return loop.run(stored0, nothing, aux, _end_of_segment, {"final": stored0}, vjps=False)


def _end_of_segment(carry: Carry, operands: Carry) -> Carry:
    return {"state_bar": carry["state_bar"], "final": operands["state"]}


def _outer_vjp(pieces: Pieces, segment: Segment):
    def build(operands: list[ir.Value]) -> list[ir.Value]:
        if pieces.outer_prints is not None:
            functions.call(pieces.outer_prints, operands)
        return functions.call(pieces.outer_vjp, operands)

    return [*pieces.types("state"), *pieces.outer_argument_types], build


def _reverse(pieces: Pieces, segment: Segment):
    n, length = pieces.layout, segment.steps
    packed = [ir.RankedTensorType.get(shape, _index_element()) for shape in segment.table_shapes]
    state_bar_types, meta_bar_types = pieces.cotangents.types

    def build(operands: list[ir.Value]) -> list[ir.Value]:
        step, rest = operands[: n.step], operands[n.step :]
        (steps, walks), rest = rest[:2], rest[2:]
        tables, rest = _unpack(rest[: len(packed)]), rest[len(packed) :]
        state_bar, meta_bar = rest[: len(state_bar_types)], rest[len(state_bar_types) :]
        calls = StepCalls(pieces, step[n.state : n.state + n.meta], step[n.state + n.meta :])
        pieces.state.begin(step[: n.state], calls.meta, length)
        loop = PlanLoop(
            pieces,
            calls,
            tables,
            walks,
            steps,
            segment.features,
            segment.state_slots,
            segment.gradient_slots,
        )
        stored0 = pieces.state.stored_of(step[: n.state])
        cotangents = pieces.cotangents.begin_segment(step, state_bar, meta_bar)
        if not segment.checksums:
            carry = loop.run(stored0, cotangents, [], None, {})
            return [value for name in COTANGENTS for value in carry[name]]
        aux = [empty(length, ty) for ty in pieces.aux_types]
        carry = loop.run(stored0, cotangents, aux, _end_of_segment, {"final": stored0})
        checksums = _checksums(segment, _changed_at(pieces, steps, carry["final"]))
        return [*(v for name in COTANGENTS for v in carry[name]), *checksums, *carry["aux"]]

    inputs = [
        *_step_arguments(pieces, length),
        _index_type(),
        _index_type(),
        *packed,
        *state_bar_types,
        *meta_bar_types,
    ]
    return inputs, build


_BUILDERS = {"advance": _advance, "outer_vjp": _outer_vjp, "reverse": _reverse}


def _step_arguments(pieces: Pieces, length: int) -> list[ir.Type]:
    return [*pieces.types("state"), *pieces.types("meta"), *pieces.stacked(length)]


def _unpack(packed: list[ir.Value]) -> dict[str, ir.Value]:
    tables: dict[str, ir.Value] = {}
    for names, array in zip((WALKS, RUNS, SEGMENTS), packed):
        columns = array.type.shape[1]
        flat = ir.RankedTensorType.get([columns], array.type.element_type)
        for i, name in enumerate(names):
            tables[name] = hlo.reshape(flat, hlo.slice(array, [i, 0], [i + 1, columns], [1, 1]))
    return tables


def _changed_at(pieces: Pieces, t: ir.Value, stored: list[ir.Value]) -> list[ir.Value]:
    state = pieces.state.at(t, stored)
    return [state[i] for i in pieces.state.changed]


def _checksums(segment: Segment, leaves: list[ir.Value]) -> list[ir.Value]:
    return [checksum(leaf) for leaf in leaves] if segment.checksums else []


def _sum(values: list[ir.Value]) -> ir.Value:
    return functools.reduce(hlo.add, values)


def _index_element() -> ir.Type:
    return ir.IntegerType.get_signless(32)


def _index_type() -> ir.Type:
    return ir.RankedTensorType.get([], _index_element())
