"""Which plan a program gets: what the schedule makes, or the fastest within a budget."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
from jaxlib.mlir import ir

from metagrad.api.lowered_pieces import LoweredPieces
from metagrad.api.step_costs import ProbeSource, step_costs
from metagrad.compiler.analysis import operations
from metagrad.compiler.passes.kernels import layout_of
from metagrad.frontend.pytrees import to_stored
from metagrad.runtime.executors.fused import signature
from metagrad.runtime.schedules.accept import Schedule
from metagrad.runtime.schedules.auto import Auto, everything_bytes
from metagrad.runtime.schedules.costs import Costs, Sizes
from metagrad.runtime.schedules.estimate import estimated
from metagrad.runtime.schedules.measured_costs import estimated_costs
from metagrad.runtime.schedules.plan import Plan
from metagrad.runtime.stage_reports import stage
from metagrad.runtime.tiers.free_memory import device_free

USED_OF_HOST, USED_OF_DEVICE = 0.5, 0.9
"""What part of the memory that is free a plan may take if no budget is given. A CPU's memory is the
host's, where other processes work too."""


def free_budget() -> int:
    """Bytes that a plan may take where the user gave no budget."""
    device = jax.devices()[0]
    part = USED_OF_HOST if device.platform == "cpu" else USED_OF_DEVICE
    return int(part * device_free(device))


class PlanChoice:
    """The choice of a plan for the fused program of some pieces.

    Args:
      schedule: the user's, or `Auto`.
      pieces: the pieces of the step.
      arguments: (state0, meta, batches, outer_args), arrays or their shapes.
    """

    def __init__(self, schedule: Schedule | Auto, pieces: LoweredPieces, arguments: tuple):
        self._schedule, self._pieces, self._arguments = schedule, pieces, arguments
        self._steps = pieces.traced.steps
        self._has_gradients = bool(pieces.traced.sites)
        self.sizes = fused_sizes(pieces)

    def plan(self) -> Plan:
        """The plan, with what it is expected to take.

        Raises:
          ValueError, TypeError: the schedule cannot plan so many steps; or no plan fits the budget.
        """
        if not isinstance(self._schedule, Auto):
            plan = self._schedule.plan(self._steps, gradients=self._has_gradients)
            return estimated(plan, self.sizes)
        budget = self._schedule.budget("memory")
        free = free_budget() if budget is None else budget
        fits = everything_bytes(self._steps, self._has_gradients, self.sizes) <= free
        # A measurement compiles the step once more, which has to be worth it: it is when memory is
        # short, or when the user says how much there is.
        is_measured = budget is not None or not fits
        return self._schedule.plan(
            self._steps,
            gradients=self._has_gradients,
            sizes=self.sizes,
            measure=(lambda: self.costs(free)) if is_measured else self.estimated_costs,
            free=free,
        )

    def costs(self, memory: int) -> Costs:
        """The costs of the step's parts: kept on disk, or measured now.

        Args:
          memory: bytes that the measurement may take.
        """
        stage("measuring what a step costs")
        traced, captured = self._pieces.traced, self._pieces.captured
        layout = traced.layout
        source = ProbeSource(
            self._pieces.snapshots,
            self._pieces.platform,
            self._pieces.emitted.callbacks,
            () if captured.are_traced else captured.arrays_beside([]),
            self._has_gradients,
            self.sizes,
            layout.state,
            layout.meta,
            layout.batch,
        )
        return step_costs(source, memory, self._given())

    def estimated_costs(self) -> Costs:
        """The costs as counts of operations suggest them."""
        module = self._pieces.snapshots.module("pieces")
        with module.context, ir.Location.unknown():
            inner, update, vjp = (
                operations.count(module, name) for name in ("inner", "update", "step_vjp")
            )
        return estimated_costs(
            self.sizes, inner_operations=inner, update_operations=update, vjp_operations=vjp
        )

    def _given(self) -> Sequence[Any] | None:
        """The leaves of state0 and meta, if they are arrays with values."""
        signature = self._pieces.traced.signature
        state0, meta = self._arguments[:2]
        leaves = [*signature.state.arrays(state0), *signature.meta.arrays(meta)]
        trees = [*signature.state.leaves, *signature.meta.leaves]
        concrete = not any(
            isinstance(leaf, (jax.core.Tracer, jax.ShapeDtypeStruct)) for leaf in leaves
        )
        return [to_stored(of, leaf) for of, leaf in zip(trees, leaves)] if concrete else None


def fused_sizes(pieces: LoweredPieces) -> Sizes:
    """Bytes of what the fused program of some pieces holds. The temporaries are not known yet."""
    traced = pieces.traced
    signature_of = traced.signature
    module = pieces.snapshots.module("pieces")
    _, gradient = signature(module, "inner")
    state = [signature_of.state.leaves[i].stored for i in layout_of(module)["stored"]]
    step = _bytes(leaf.stored for leaf in signature_of.batches.leaves) // traced.steps
    batch = step
    step += _bytes(leaf.stored for leaf in signature_of.aux.leaves)
    # Of a vector of queries each has a gradient.
    queries = math.prod(traced.outer.jaxpr.out_avals[0].shape)
    if "batches" in signature_of.wrt:
        step += queries * batch
    results = queries * [
        leaf.stored for name, leaf in signature_of.gradient_leaves() if name != "batches"
    ]
    inputs = (signature_of.state, signature_of.state, signature_of.meta, signature_of.outer)
    around = [leaf.stored for tree in inputs for leaf in tree.leaves]
    captured = pieces.captured.avals()
    return Sizes(
        state=_bytes(state),
        gradient=_bytes(gradient),
        workspace=_bytes([*around, *results, *captured]),
        step=step,
        batch=batch,
    )


def _bytes(avals) -> int:
    return sum(math.prod(aval.shape) * aval.dtype.itemsize for aval in avals)
