"""What a contender is: it is built for a problem, and then called again and again."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks.models.model import Model


class Problem(NamedTuple):
    """A model and a number of steps, with everything that a program takes already on the device."""

    model: Model
    steps: int
    state0: Any
    meta: Any
    batches: Any
    held_out: Any

    @property
    def arguments(self) -> tuple:
        return self.state0, self.meta, self.batches, self.held_out

    @property
    def state_bytes(self) -> int:
        return tree_bytes(self.state0)


class Memory(NamedTuple):
    """Bytes beyond arguments and results, and where the number comes from.

    The source is "xla" where XLA reports the number, and "counted" otherwise.
    """

    bytes: int
    source: str


@dataclasses.dataclass(frozen=True)
class Built:
    """A contender, compiled for a problem.

    Attributes:
      run: takes the problem's `arguments`, returns (value, gradient) without waiting for them; the
          gradient of plain training is None.
      memory: bytes beyond arguments and results.
      compile_seconds: tracing, lowering and compiling together.
      details: anything else worth a place in the record (slots, advances).
    """

    run: Callable[..., tuple[Any, Any]]
    memory: Memory
    compile_seconds: float
    details: dict[str, Any] = dataclasses.field(default_factory=dict)


class Contender(NamedTuple):
    """A way to compute the metagradient.

    `build(problem)` raises `Unavailable` if it cannot be had here.
    """

    name: str
    build: Callable[[Problem], Built]


class Unavailable(Exception):
    """Why a contender cannot take part, in words for the table."""


def tree_bytes(tree: Any) -> int:
    return sum(
        np.prod(leaf.shape, dtype=np.int64).item() * np.dtype(leaf.dtype).itemsize
        for leaf in jax.tree.leaves(tree)
    )


def compile_program(program: Callable, problem: Problem, **details: Any) -> Built:
    """Compiles `program(state0, meta, batches, held_out) -> (value, gradient)` as one program."""
    start = time.perf_counter()
    compiled = jax.jit(program).lower(*problem.arguments).compile()
    seconds = time.perf_counter() - start
    return Built(
        compiled, Memory(compiled.memory_analysis().temp_size_in_bytes, "xla"), seconds, details
    )


def place(model: Model, steps: int) -> Problem:
    """The problem with all arrays on the default device."""
    arrays = (model.state0, model.meta, model.draw_batches(steps), model.held_out)
    return Problem(model, steps, *jax.block_until_ready(jax.device_put(arrays)))
