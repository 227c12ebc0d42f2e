"""Which plan a program gets: what the schedule makes, or the fastest within a budget."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxlib.mlir import ir

from metagrad.api.lowered_pieces import LoweredPieces
from metagrad.api.shardings import Shardings, device_bytes, share_of_shape
from metagrad.api.step_costs import PROBE_STEPS, ProbeSource, step_costs
from metagrad.compiler.analysis import operations
from metagrad.compiler.passes.kernels import layout_of
from metagrad.frontend.pytrees import to_stored
from metagrad.runtime import jax_internals, processes
from metagrad.runtime.executors.fused import signature
from metagrad.runtime.schedules.accept import Schedule
from metagrad.runtime.schedules.auto import Auto, everything_bytes
from metagrad.runtime.schedules.auto_streamed import streamed_plan
from metagrad.runtime.schedules.costs import Costs, Sizes
from metagrad.runtime.schedules.estimate import estimated
from metagrad.runtime.schedules.measured_costs import estimated_costs, tier_seconds, with_tier
from metagrad.runtime.schedules.plan import Plan
from metagrad.runtime.schedules.two_level import TwoLevelPlan, choose
from metagrad.runtime.stage_reports import stage
from metagrad.runtime.streams import Stream
from metagrad.runtime.tiers.disk import DiskTier
from metagrad.runtime.tiers.free_memory import device_free, host_free

USED_OF_HOST, USED_OF_DEVICE = 0.5, 0.9
"""What part of the memory that is free a plan may take if no budget is given. A CPU's memory is the
host's, where other processes work too."""


def free_budget(shardings: Shardings) -> int:
    """Bytes that a plan may take on each device where the user gave no budget.

    Where the devices belong to several processes it is the least of what these say, so that all
    make the same plan.
    """
    return processes.agreed(shardings.values(), _own_budget(shardings), min)


def _own_budget(shardings: Shardings) -> int:
    used: set[Any] = {
        device for each in shardings.values() for device in processes.devices_of(each)
    }
    local = [device for device in used if device.process_index == jax.process_index()]
    device = local[0] if local else jax.local_devices()[0]
    if device.platform != "cpu":
        return int(USED_OF_DEVICE * device_free(device))
    # Those of a host share its memory.
    return int(USED_OF_HOST * device_free(device)) // max(1, len(local))


def fused_choice(schedule: Schedule | Auto, pieces: LoweredPieces, arguments: tuple) -> Plan:
    """The plan of a fused program, with what it is expected to take.

    Args:
      schedule: the user's, or `Auto`.
      pieces: the pieces of the step.
      arguments: (state0, meta, batches, outer_args), arrays or their shapes.

    Raises:
      ValueError, TypeError: the schedule cannot plan so many steps.
      DoesNotFit: no plan fits the budget.
    """
    steps, has_gradients = pieces.traced.steps, bool(pieces.traced.sites)
    sizes = fused_sizes(pieces)
    if not isinstance(schedule, Auto):
        return estimated(schedule.plan(steps, gradients=has_gradients), sizes)
    budget = schedule.budget("memory")
    memory = free_budget(pieces.traced.shardings) if budget is None else budget
    fits = everything_bytes(steps, has_gradients, sizes) <= memory
    # A measurement compiles the step once more, which has to be worth it: it is when memory is
    # short, or when the user says how much there is.
    is_measured = (budget is not None or not fits) and can_measure(pieces, arguments[:3])
    costs = (
        functools.partial(measured, pieces, sizes, memory, arguments[:3])
        if is_measured
        else functools.partial(operations_costs, pieces, sizes)
    )
    return schedule.plan(steps, gradients=has_gradients, sizes=sizes, measure=costs, free=memory)


def streamed_choice(
    schedule: Schedule | Auto | None, pieces: LoweredPieces, arguments: tuple, stream: Stream
) -> TwoLevelPlan:
    """The plan of a streamed run.

    Args:
      arguments: (state0, meta, shapes of the stacked batches, outer_args).
      schedule: of the segments. `Auto` with budgets: the fastest, from costs that are measured, or
        estimated where the arguments or the batches are shapes. None, or `Auto()`: as many states
        as fit half of the memory that is free.
    """
    steps, has_gradients = pieces.traced.steps, bool(pieces.traced.sites)
    sizes = dataclasses.replace(fused_sizes(pieces), step=0)
    shardings = pieces.traced.shardings
    if isinstance(schedule, Auto) and schedule != Auto():
        budget = schedule.budget("memory")
        memory = free_budget(shardings) if budget is None else budget
        costs = (
            measured(pieces, sizes, memory, (*arguments[:2], _first_batches(stream)))
            if stream.has_values and can_measure(pieces, arguments[:2])
            else operations_costs(pieces, sizes)
        )
        if schedule.disk is not None:
            seconds = processes.agreed(shardings.values(), _disk_seconds(sizes.state), max)
            costs = with_tier(costs, "disk", *seconds)
        return streamed_plan(
            schedule,
            steps,
            gradients=has_gradients,
            costs=costs,
            device_free=memory,
            host_free=processes.agreed(shardings.values(), int(USED_OF_HOST * host_free()), min),
        )
    return choose(
        steps,
        sizes,
        has_gradients=has_gradients,
        memory=free_budget(shardings),
        schedule=None if isinstance(schedule, Auto) else schedule,
    )


def _first_batches(stream: Stream) -> Any:
    """Some batches of a stream, stacked."""
    batches = [stream[t] for t in range(min(PROBE_STEPS, len(stream)))]
    return jax.tree.map(lambda *rows: jnp.stack(rows), *batches)


def _disk_seconds(size: int) -> tuple[float, float]:
    """Seconds of a write and a read of one state on disk, measured now."""
    arrays = [jnp.zeros(max(1, size), jnp.uint8)]
    with DiskTier() as tier:
        return tier_seconds(tier, arrays)


def measured(pieces: LoweredPieces, sizes: Sizes, memory: int, arguments: tuple) -> Costs:
    """The costs of a step's parts: kept on disk, or measured now.

    Args:
      sizes: bytes; the workspace becomes that of the measurement.
      memory: bytes that the measurement may take.
      arguments: (state0, meta, batches, ...), with values.
    """
    stage("measuring what a step costs")
    captured, layout = pieces.captured, pieces.traced.layout
    given = _given(pieces, arguments)
    source = ProbeSource(
        pieces.snapshots,
        pieces.platform,
        pieces.emitted.callbacks,
        () if captured.are_traced else captured.arrays_beside(given),
        bool(pieces.traced.sites),
        sizes,
        layout.state,
        layout.meta,
        layout.batch,
        pieces.traced.mesh,
    )
    costs = step_costs(source, memory, given)
    # The probe has no outer function.
    outer = device_bytes(pieces.traced.signature.outer.leaves, pieces.traced.shardings)
    sizes = dataclasses.replace(costs.sizes, workspace=costs.sizes.workspace + outer)
    return dataclasses.replace(costs, sizes=sizes)


def operations_costs(pieces: LoweredPieces, sizes: Sizes) -> Costs:
    """The costs as counts of operations suggest them."""
    module = pieces.snapshots.module("pieces")
    with module.context, ir.Location.unknown():
        inner, update, vjp = (
            operations.count(module, name) for name in ("inner", "update", "step_vjp")
        )
    return estimated_costs(
        sizes, inner_operations=inner, update_operations=update, vjp_operations=vjp
    )


def can_measure(pieces: LoweredPieces, arguments: tuple) -> bool:
    """Whether a step can be run to be measured.

    Args:
      arguments: what it is run on, or what of it is known to have values or not.

    It is run on the arguments, so they need values: on others a loop that waits for a condition may
    never end. And it must not call the host, which would print, or count, what nobody asked for.
    Several processes would measure other times each, and choose other plans.
    """
    values = jax.tree.leaves(arguments)
    concrete = not any(isinstance(x, (jax.core.Tracer, jax.ShapeDtypeStruct)) for x in values)
    return (
        concrete
        and processes.Processes.of(pieces.traced.shardings.values()) is None
        and not jax_internals.is_traced_call()
        and not pieces.captured.are_traced
        and not pieces.emitted.callbacks
    )


def _given(pieces: LoweredPieces, arguments: tuple) -> Sequence[Any]:
    """The leaves of state0 and meta, and of the first batches, as the program takes them."""
    signature = pieces.traced.signature
    state0, meta, batches = (
        tree.arrays(value)
        for tree, value in zip((signature.state, signature.meta, signature.batches), arguments)
    )
    # Of the batches only these rows are brought to the device.
    rows = np.arange(PROBE_STEPS) % len(batches[0])
    leaves = [*state0, *meta, *(leaf[rows] for leaf in batches)]
    return [to_stored(of, leaf) for of, leaf in zip(signature.leaves, leaves)]


def fused_sizes(pieces: LoweredPieces) -> Sizes:
    """Bytes of what the fused program of some pieces holds; on one device, if on several.

    The temporaries of a step are not known before a measurement; what its activations take is
    estimated. Of the loop's own are counted the slots behind those of the plan, and the state and
    gradient that are being made.
    """
    traced, shardings = pieces.traced, pieces.traced.shardings
    signature_of = traced.signature
    module = pieces.snapshots.module("pieces")
    _, gradient = signature(module, "inner")
    shares = share_of_shape(signature_of.state.leaves, shardings)
    gradients = sum(int(_bytes([aval]) * shares.get(aval.shape, 1)) for aval in gradient)
    of = functools.partial(device_bytes, shardings=shardings)
    state = of(signature_of.state.leaves[i] for i in layout_of(module)["stored"])
    batch = of(signature_of.batches.leaves) // traced.steps
    step = batch + of(signature_of.aux.leaves)
    # Of a vector of queries each has a gradient.
    queries = math.prod(traced.outer.jaxpr.out_avals[0].shape)
    if "batches" in signature_of.wrt:
        step += queries * batch
    results = queries * of(
        leaf for name, leaf in signature_of.gradient_leaves() if name != "batches"
    )
    inputs = (signature_of.state, signature_of.state, signature_of.meta, signature_of.outer)
    around = sum(of(tree.leaves) for tree in inputs)
    captured = _bytes(pieces.captured.avals())
    return Sizes(
        state=state,
        gradient=gradients,
        workspace=2 * (state + gradients) + around + results + captured + traced.temporaries,
        step=step,
        batch=batch,
    )


def _bytes(avals) -> int:
    return sum(math.prod(aval.shape) * aval.dtype.itemsize for aval in avals)
