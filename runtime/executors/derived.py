"""Programs that are made of a program: many runs side by side, and a run with its tangents.

`jax.vmap` and `jax.jvp` of a metagradient are metagradients themselves: of a step that takes many
states at once, or a state and its tangent. Whoever made a program knows its step, and makes these
from it when they are asked for. Here is how a program's operands and results correspond to those of
such a one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from metagrad.runtime.executors.fused import FusedProgram


class Source(NamedTuple):
    """Where a result is among those of another program.

    Attributes:
      result: its index.
      axis: the axis of the runs in it; None if the runs share it.
    """

    result: int
    axis: int | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class ManyRuns:
    """A program of several runs side by side.

    Attributes:
      program: the program.
      runs: how many.
      axes: for each operand of the program for one run, at which axis the runs lie; None for one
        that they share. Behind these the program takes `captured`.
      results: where each result of the program for one run is.
      captured: gives the arrays that only this program captures, for operands.
    """

    program: FusedProgram
    runs: int
    axes: tuple[int | None, ...]
    results: tuple[Source, ...]
    captured: Callable[[Sequence[Any]], list]

    def call(self, operands: Sequence[Any], axes: Sequence[int | None]) -> list:
        """The results, for operands whose runs lie at `axes`."""
        arranged = [
            self._arranged(operand, axis, to)
            for operand, axis, to in zip(operands, axes, self.axes, strict=True)
        ]
        results = self.program.call(*arranged, *self.captured(arranged))
        return [results[source.result] for source in self.results]

    def _arranged(self, operand: jax.Array, axis: int | None, to: int | None) -> jax.Array:
        if to is None:
            return operand
        if axis is not None:
            return jnp.moveaxis(operand, axis, to)
        shape = list(jnp.shape(operand))  # of a Python number, too: jax.jvp(..., (1.0,))
        shape.insert(to, self.runs)
        return jnp.broadcast_to(jnp.expand_dims(operand, to), shape)


@dataclasses.dataclass(frozen=True, eq=False)
class RunWithTangents:
    """A program of a run and its tangents: it gives tangents of all results.

    Attributes:
      program: the program.
      operands: what each of its operands is: an operand of the plain program, its tangent, or a
        tangent that is zero (`Operand`). Behind these it takes `captured`.
      results: for each result of the plain program, the index of its tangent; None if it has none.
      captured: as in `ManyRuns`.
    """

    program: FusedProgram
    operands: tuple[Operand, ...]
    results: tuple[int | None, ...]
    captured: Callable[[Sequence[Any]], list]

    def call(self, primals: Sequence[Any], tangents: dict[int, Any]) -> list[Any | None]:
        """The tangents of the results, for the tangents of operands, by index."""

        def value(operand: Operand) -> jax.Array:
            if not operand.is_tangent:
                return primals[operand.number]
            if operand.number in tangents:
                return tangents[operand.number]
            return jnp.zeros_like(primals[operand.number])

        arranged = [value(operand) for operand in self.operands]
        results = self.program.call(*arranged, *self.captured(arranged))
        return [None if i is None else results[i] for i in self.results]


class Operand(NamedTuple):
    """An operand of the plain program, by its number, or its tangent."""

    number: int
    is_tangent: bool = False


class Derivations(Protocol):
    """Makes programs of a program."""

    def many_runs(self, runs: int, batched: tuple[bool, ...]) -> ManyRuns:
        """Several runs side by side.

        Args:
          runs: how many.
          batched: which operands differ from run to run.

        Raises:
          NotImplementedError: a value that is closed over does.
        """
        ...

    def with_tangents(self, moving: tuple[int, ...]) -> RunWithTangents:
        """A run and its tangents.

        Args:
          moving: the operands that have a tangent, by index.
        """
        ...
