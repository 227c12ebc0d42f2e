"""The costs of a step, from runs of the kernel `reverse` on this machine."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from metagrad.api.shardings import is_on_several
from metagrad.compiler import pipeline
from metagrad.compiler.analysis.fingerprint import fingerprint
from metagrad.compiler.pipeline import Snapshots
from metagrad.runtime.executors import host_calls
from metagrad.runtime.executors.fused import FusedProgram, Gradients, signature
from metagrad.runtime.schedules.costs import Costs, Sizes
from metagrad.runtime.schedules.kept_costs import measured_costs
from metagrad.runtime.schedules.loop_tables import ANY
from metagrad.runtime.schedules.measured_costs import Probe, workspace
from metagrad.runtime.schedules.plan import Plan
from metagrad.runtime.schedules.segment_tables import Segment

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
      mesh: the devices that the step speaks of, if there are several.
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
    mesh: Mesh | None


def step_costs(source: ProbeSource, memory: int, arguments: Sequence[Any]) -> Costs:
    """The costs of a step: kept on disk, or measured now.

    The workspace of the sizes is what XLA says of the probe.

    Args:
      source: the pieces.
      memory: bytes on the device that the probe may take: it has fewer slots where they would take
        more.
      arguments: leaves of state0 and meta, and of PROBE_STEPS batches, to run on.
    """
    text = fingerprint(source.snapshots.module("pieces"), _PIECES)
    sharded = [str(x.sharding) for x in arguments if _is_sharded(x)]
    return measured_costs(
        "\n".join([text, *sharded]), lambda: _probe(source, memory, arguments), source.sizes
    )


def _probe(source: ProbeSource, memory: int, arguments: Sequence[Any]) -> Probe:
    slots = _slots(source, memory)
    large = _Compiled(source, slots, arguments)
    small = _Compiled(source, 1, arguments)
    return Probe(
        large.run,
        PROBE_STEPS,
        slots,
        slots if source.has_gradients else 0,
        source.has_gradients,
        large.slot_bytes,
        small.run,
        small.slot_bytes,
        large.workspace,
    )


class _Compiled:
    """The kernel `reverse`, compiled for a few steps, and its arguments."""

    def __init__(self, source: ProbeSource, slots: int, arguments: Sequence[Any]):
        self.segment = Segment(PROBE_STEPS, slots, slots, ANY)
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
            source.mesh,
        )
        placed = [*map(_as_placed, inputs, arguments), *inputs[len(arguments) :]]
        self.compiled = jax.jit(program.call).lower(*placed).compile()
        of_steps = source.state + source.meta + source.batch
        before = list(arguments)
        last = len(inputs) - len(source.captured)
        tables = of_steps + 5  # the steps, the walks, three packed tables
        after = [*map(_like, inputs[tables:last], range(tables, last)), *source.captured]
        self.before, self.after = jax.device_put(before), jax.device_put(after)
        # Behind the slots of each kind stands one more, for what is made on the spot.
        sizes = source.sizes
        self.slot_bytes = (slots + 1) * (sizes.state + sizes.gradient)
        analysis = self.compiled.memory_analysis()
        plan_slots = slots * (sizes.state + sizes.gradient)
        # The cotangents are arguments and results of the probe, and a program carries them once.
        # For one query what it has beside, such as the final state, is as much.
        cotangents = sum(aval.size * aval.dtype.itemsize for aval in inputs[tables:last])
        _, results = signature(source.snapshots.module("pieces"), "outer_vjp")
        queries = results[0].shape[0] if results[0].shape else 1
        taken = workspace(analysis, plan_slots, PROBE_STEPS, sizes)
        self.workspace = max(0, taken - cotangents * (queries - 1) // queries)

    def run(self, plan: Plan) -> None:
        walks, packed = self.segment.tables(plan, gradients=self.source.has_gradients)
        results = self.compiled(
            *self.before, np.int32(plan.steps), np.int32(walks), *packed, *self.after
        )
        jax.block_until_ready(results)


def _slots(source: ProbeSource, memory: int) -> int:
    each = max(1, source.sizes.state + source.sizes.gradient)
    return max(2, min(PROBE_STEPS, memory // 2 // each))


def _as_placed(aval: Any, argument: Any) -> Any:
    """A program's input, sharded as the argument if that lies on several devices."""
    if not _is_sharded(argument):
        return aval
    return jax.ShapeDtypeStruct(aval.shape, aval.dtype, sharding=argument.sharding)


def _is_sharded(argument: Any) -> bool:
    return isinstance(argument, jax.Array) and is_on_several(argument.sharding)


def _like(aval: Any, seed: int) -> np.ndarray:
    """An array like `aval`: small positive numbers, which no step finds hard, or zeros."""
    if not np.issubdtype(aval.dtype, np.inexact):
        return np.zeros(aval.shape, aval.dtype)
    random = np.random.default_rng(seed)
    return (0.01 + 0.02 * random.random(aval.shape)).astype(aval.dtype)
