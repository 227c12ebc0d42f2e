"""The costs of a step, from runs of the kernel `reverse` on this machine."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metagrad.compiler import pipeline
from metagrad.compiler.analysis.fingerprint import fingerprint
from metagrad.compiler.passes import kernels as kernel_pass
from metagrad.compiler.pipeline import Snapshots
from metagrad.runtime.executors import host_calls
from metagrad.runtime.executors.fused import FusedProgram, Gradients, signature
from metagrad.runtime.schedules.costs import Costs, Sizes
from metagrad.runtime.schedules.kept_costs import measured_costs
from metagrad.runtime.schedules.measured_costs import Probe, workspace
from metagrad.runtime.schedules.plan import Plan

PROBE_STEPS = 6
"""Steps of the longest plan that is measured."""

_PIECES = ("inner", "update", "step_vjp", "outer_vjp", "prints", "outer_prints")


@dataclasses.dataclass(frozen=True, eq=False)
class ProbeSource:
    """What a probe is made of.

    Attributes:
      snapshots: the module at each stage, up to the pieces.
      platform: what it was lowered for.
      callbacks: the host functions that the pieces call.
      captured: the arrays that the functions capture.
      has_gradients: whether the step has inner gradients.
      sizes: bytes; `workspace` is not read.
      state, meta, batch: the number of leaves of each.
    """

    snapshots: Snapshots
    platform: str
    callbacks: tuple[Callable, ...]
    captured: Sequence[Any]
    has_gradients: bool
    sizes: Sizes
    state: int
    meta: int
    batch: int


def step_costs(source: ProbeSource, memory: int, arguments: Sequence[Any] | None = None) -> Costs:
    """The costs of a step: kept on disk, or measured now.

    The workspace of the sizes is what XLA says of the probe.

    Args:
      source: the pieces.
      memory: bytes on the device that the probe may take: it has fewer slots where they would take
        more.
      arguments: leaves of state0 and meta to run on. None: small random numbers.
    """
    text = fingerprint(source.snapshots.module("pieces"), _PIECES)
    return measured_costs(text, lambda: _Compiled(source, memory, arguments).probe, source.sizes)


class _Compiled:
    """The kernel `reverse`, compiled for a few steps, and its arguments."""

    def __init__(self, source: ProbeSource, memory: int, arguments: Sequence[Any] | None):
        slots = _slots(source, memory)
        features = kernel_pass.ANY
        self.segment = kernel_pass.Segment(PROBE_STEPS, slots, slots, features)
        self.source = source
        module = pipeline.kernel(source.snapshots, "reverse", self.segment)
        inputs, outputs = signature(module)
        bytecode = pipeline.bytecode_of(module)
        program = FusedProgram(
            lambda _: bytecode,
            source.platform,
            inputs,
            outputs,
            source.callbacks if host_calls.calls_host(module) else (),
            Gradients({}, ("",) * len(inputs), ("",) * len(outputs)),
        )
        self.compiled = jax.jit(program.call).lower(*inputs).compile()
        of_steps = source.state + source.meta + source.batch
        given = list(arguments or [])
        before = [
            given[i] if i < len(given) else _like(aval, i)
            for i, aval in enumerate(inputs[:of_steps])
        ]
        last = len(inputs) - len(source.captured)
        tables = of_steps + 5  # the steps, the walks, three packed tables
        after = [*map(_like, inputs[tables:last], range(tables, last)), *source.captured]
        self.before, self.after = jax.device_put(before), jax.device_put(after)
        # Behind the slots of each kind stands one more, for what is made on the spot.
        self.slot_bytes = (slots + 1) * (source.sizes.state + source.sizes.gradient)
        self.workspace = workspace(
            self.compiled.memory_analysis(),
            slots * (source.sizes.state + source.sizes.gradient),
            PROBE_STEPS,
            source.sizes,
        )
        self.cleared = jax.jit(lambda: jnp.zeros(self.slot_bytes, jnp.uint8))

    @property
    def probe(self) -> Probe:
        slots = self.segment.state_slots
        gradients = self.source.has_gradients
        return Probe(
            self.run,
            PROBE_STEPS,
            slots,
            slots if gradients else 0,
            gradients,
            lambda: jax.block_until_ready(self.cleared()),
            self.slot_bytes,
            self.workspace,
        )

    def run(self, plan: Plan) -> None:
        walks, packed = self.segment.tables(plan, gradients=self.source.has_gradients)
        results = self.compiled(
            *self.before, np.int32(plan.steps), np.int32(walks), *packed, *self.after
        )
        jax.block_until_ready(results)


def _slots(source: ProbeSource, memory: int) -> int:
    each = max(1, source.sizes.state + source.sizes.gradient)
    return max(2, min(PROBE_STEPS, memory // 2 // each))


def _like(aval: Any, seed: int) -> np.ndarray:
    """An array like `aval`: small positive numbers, which no step finds hard, or zeros."""
    if not np.issubdtype(aval.dtype, np.inexact):
        return np.zeros(aval.shape, aval.dtype)
    random = np.random.default_rng(seed)
    return (0.01 + 0.02 * random.random(aval.shape)).astype(aval.dtype)
