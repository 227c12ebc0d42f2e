"""The programs of the streamed executor, and what it must know of their arguments.

compiler/passes/kernels.py says what each takes and returns.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Sharding

from metagrad.runtime.executors.fused import FusedProgram, Gradients
from metagrad.runtime.executors.run_shardings import RunShardings
from metagrad.runtime.schedules.segment_tables import KERNELS, Segment
from metagrad.runtime.schedules.two_level import SegmentSlots
from metagrad.runtime.stage_reports import stage

Arrays = list[Any]
"""Arrays of JAX or NumPy, in the order of a program's arguments."""


@dataclasses.dataclass(frozen=True)
class StepLayout:
    """Where the executor finds what in the flat lists of arrays.

    Attributes:
      state, meta, batch, outer: the number of leaves of each.
      changed: the leaves of the state that steps change, by index.
      stored: those of them that are not counters.
      state_bar, meta_bar, batch_bar: the leaves whose cotangents are carried, by index in their
        group.
      wrt: the groups of which the gradient is wanted: "state", "meta", "batches".
      float_leaves: for each group in `wrt`, its floating-point leaves by index.
      outer_aux, aux: the number of auxiliary results of the outer function and of the step.
    """

    state: int
    meta: int
    batch: int
    outer: int
    changed: tuple[int, ...]
    stored: tuple[int, ...]
    state_bar: tuple[int, ...]
    meta_bar: tuple[int, ...]
    batch_bar: tuple[int, ...]
    wrt: tuple[str, ...]
    float_leaves: dict[str, tuple[int, ...]]
    outer_aux: int
    aux: int

    def whole_state(self, state0: Arrays, changed: Arrays) -> Arrays:
        """All leaves of a state of which those that steps change are given."""
        state = list(state0)
        for i, leaf in zip(self.changed, changed, strict=True):
            state[i] = leaf
        return state


@dataclasses.dataclass(frozen=True)
class Kernels:
    """The compiled programs for segments of one length.

    Attributes:
      steps: L, the most steps of a segment.
      layout: what stands where.
      advance, outer_vjp, reverse: the programs.
      tables: from the number of steps of a segment to the tables that `reverse` takes: the number
        of walks, and the packed arrays.
      checksums: whether the programs return checksums.
      anywhere: whether the arguments may be on other devices than the default one; the programs
        are then compiled when they are called first.
      shardings: where the arguments lie, if on several devices.
    """

    steps: int
    layout: StepLayout
    advance: FusedProgram
    outer_vjp: FusedProgram
    reverse: FusedProgram
    tables: Callable[[int], tuple[int, Sequence[np.ndarray]]]
    checksums: bool
    anywhere: bool = False
    shardings: RunShardings | None = None

    @classmethod
    def of(
        cls, layout: StepLayout, segment: Segment, slots: SegmentSlots, *programs: FusedProgram
    ) -> Kernels:
        """Programs for segments, with the tables of the segments' plans.

        Args:
          segment: what they are for.
          slots: makes the plans.
          programs: in the order of KERNELS.
        """
        gradients = slots.has_gradients
        tables = functools.cache(
            lambda count: segment.tables(slots.plan(count), gradients=gradients)
        )
        advance, outer_vjp, reverse = programs
        return cls(slots.steps, layout, advance, outer_vjp, reverse, tables, segment.checksums)

    def compile(self) -> None:
        """Compiles what is not compiled yet, for the default device."""
        for name in KERNELS:
            program: FusedProgram = getattr(self, name)
            if not program.is_compiled:
                stage(f"compiling {name} with XLA")
                program.compiled  # noqa: B018 (compiles it)

    def on(self, arrays: Sequence[Any], shardings: RunShardings | None = None) -> Kernels:
        """These programs for arguments that are where some arrays are.

        Args:
          shardings: where exactly, if on several devices.
        """
        if shardings is not None:
            return dataclasses.replace(self, anywhere=True, shardings=shardings)
        if self.is_compiled:
            (result, *_) = jax.tree.leaves(self.outer_vjp.compiled.output_shardings)
            devices = result.device_set
        else:
            devices = jnp.zeros(()).devices()
        anywhere = any(
            array.sharding.device_set != devices
            for array in arrays
            if isinstance(array, jax.Array) and array.committed
        )
        return dataclasses.replace(self, anywhere=anywhere)

    @property
    def is_compiled(self) -> bool:
        """Whether the programs are compiled for the default device."""
        return all(p.is_compiled for p in (self.advance, self.outer_vjp, self.reverse))

    def _call(self, name: str, *arrays: Any) -> Sequence:
        program: FusedProgram = getattr(self, name)
        if self.shardings is not None:
            return program.jitted_to(self._result_shardings[name])(*arrays)
        return (program.jitted if self.anywhere else program.compiled)(*arrays)

    @functools.cached_property
    def parts(self) -> Mapping[str, tuple[Sequence[Any], Sequence[Sharding | None]]]:
        """What a run has at hand between two programs: shapes and dtypes, and shardings, by name.

        They are "state" and "final" (the changed leaves), "value" (with what is auxiliary),
        "state_bar" and "meta_bar".
        """
        n = self.layout
        state, _, _ = _split(self.advance.outputs, len(n.changed), 0)
        value, state_bar, _ = _split(self.outer_vjp.outputs, 1 + n.outer_aux, len(n.state_bar))
        meta_bar = self.reverse.outputs[self._meta_bar]
        avals = {
            "state": state,
            "final": state,
            "value": value,
            "state_bar": state_bar,
            "meta_bar": meta_bar,
        }
        if self.shardings is None:
            return {name: (of, len(of) * [None]) for name, of in avals.items()}
        shardings = {"value": len(value) * [self.shardings.replicated], **self._part_shardings}
        return {name: (of, shardings[name]) for name, of in avals.items()}

    @functools.cached_property
    def _part_shardings(self) -> Mapping[str, Sequence[Sharding]]:
        assert self.shardings is not None
        n = self.layout
        return self.shardings.parts(
            n.changed, n.state_bar, n.meta_bar, n.batch_bar, len(self.outer_vjp.outputs[0].shape)
        )

    @functools.cached_property
    def _result_shardings(self) -> dict[str, tuple[Sharding, ...]]:
        """The shardings of the results of each program."""
        assert self.shardings is not None
        parts, everywhere = self._part_shardings, self.shardings.replicated
        value = [everywhere] * (1 + self.layout.outer_aux)
        first = {
            "advance": parts["state"],
            "outer_vjp": [*value, *parts["state_bar"]],
            "reverse": [*parts["state_bar"], *parts["meta_bar"], *parts["batch_bar"]],
        }
        return {
            name: (*of, *(len(getattr(self, name).outputs) - len(of)) * [everywhere])
            for name, of in first.items()
        }

    def run_advance(
        self, state: Arrays, meta: Arrays, batches: Arrays, captured: Arrays, count: int
    ) -> tuple[Arrays, Arrays, Arrays]:
        """The changed leaves of the state after `count` steps, the steps' aux, and checksums.

        Args:
          state: all leaves.
          batches: stacked over L steps, of which `count` are run.
        """
        results = self._call("advance", *state, *meta, *batches, np.int32(count), *captured)
        state, aux, rest = _split(results, len(self.layout.changed), self.layout.aux)
        return state, aux, rest[: self._sums]

    def run_outer_vjp(
        self, state: Arrays, outer: Arrays, captured: Arrays
    ) -> tuple[Arrays, Arrays]:
        """The value with what is auxiliary, and the cotangents of the state."""
        results = self._call("outer_vjp", *state, *outer, *captured)
        value, state_bar, _ = _split(results, 1 + self.layout.outer_aux, len(self.layout.state_bar))
        return value, state_bar

    def run_reverse(
        self,
        state: Arrays,
        meta: Arrays,
        batches: Arrays,
        captured: Arrays,
        count: int,
        state_bar: Arrays,
        meta_bar: Arrays,
    ) -> tuple[Arrays, Arrays, Arrays, Arrays]:
        """The cotangents of the state, of meta and of the batches, and checksums.

        Args:
          state: all leaves, at the segment's start.
          state_bar, meta_bar: the cotangents that come from behind the segment.
        """
        walks, packed = self.tables(count)
        results = self._call(
            "reverse",
            *state,
            *meta,
            *batches,
            np.int32(count),
            np.int32(walks),
            *packed,
            *state_bar,
            *meta_bar,
            *captured,
        )
        state_bar, meta_bar, rest = _split(results, len(state_bar), len(meta_bar))
        batch_bar, checksums, _ = _split(rest, len(self.layout.batch_bar), self._sums)
        return state_bar, meta_bar, batch_bar, checksums

    @property
    def _sums(self) -> int:
        """The number of checksums: one for each changed leaf, or none."""
        return len(self.layout.changed) if self.checksums else 0

    @functools.cached_property
    def meta_bar_zeros(self) -> list[np.ndarray]:
        """The cotangents of meta before anything is reversed."""
        return [np.zeros(aval.shape, aval.dtype) for aval in self.reverse.outputs[self._meta_bar]]

    @property
    def _meta_bar(self) -> slice:
        first = len(self.layout.state_bar)
        return slice(first, first + len(self.layout.meta_bar))


def kernel_gradients(
    name: str, layout: StepLayout, inputs: Sequence[Any], outputs: Sequence[Any]
) -> Gradients:
    """What the arguments and results of a kernel are called, and which results are like which
    arguments. It has no derivative of its own.
    """
    n = layout
    state, meta, batches = 0, n.state, n.state + n.meta
    changed = [state + i for i in n.changed]
    state_bar = [state + i for i in n.state_bar]
    like: Mapping[str, Sequence[int | None]] = {
        "advance": changed,
        "outer_vjp": [*(1 + n.outer_aux) * [None], *state_bar],
        "reverse": [
            *state_bar,
            *(meta + i for i in n.meta_bar),
            *(batches + i for i in n.batch_bar),
        ],
    }
    return Gradients(
        {},
        _numbered("argument", inputs),
        _numbered("result", outputs),
        {result: operand for result, operand in enumerate(like[name]) if operand is not None},
    )


def _numbered(what: str, values: Sequence[Any]) -> tuple[str, ...]:
    return tuple(f"{what} {i}" for i in range(len(values)))


def _split(values: Sequence, first: int, second: int) -> tuple[list, list, list]:
    """The first so many, the so many behind these, and the rest."""
    values = list(values)
    return values[:first], values[first : first + second], values[first + second :]
