"""A run in forward mode, lowered: one loop, in which tangents go along with the state."""

from __future__ import annotations

from collections.abc import Callable

from jax.extend import core
from jax.interpreters import partial_eval as pe

from metagrad.api.assemble import Finished
from metagrad.api.lowered_pieces import whole_step
from metagrad.api.plan_choice import free_budget
from metagrad.api.program import Program
from metagrad.api.request import Request
from metagrad.api.shardings import device_bytes
from metagrad.api.traced_run import TracedRun
from metagrad.compiler import pipeline
from metagrad.frontend.captured import Captured
from metagrad.frontend.emit_mlir import Traced
from metagrad.frontend.forward import directions
from metagrad.frontend.forward.emit import lower_program
from metagrad.frontend.forward.run import ForwardRun
from metagrad.frontend.jaxprs.auto_axes import auto_context
from metagrad.frontend.jaxprs.expand_gradients import expand_gradients
from metagrad.frontend.partition import Decision
from metagrad.runtime import jax_internals
from metagrad.runtime.byte_sizes import format_bytes
from metagrad.runtime.schedules.forward_plan import ForwardPlan
from metagrad.runtime.stage_reports import stage


def lower_forward(
    request: Request, traced: TracedRun, captured: Captured | None = None
) -> Finished:
    """The program, for `mode="forward"`.

    Args:
      captured: where the arrays that the functions capture are collected; none so far if None.

    Raises:
      ValueError: the tangents do not fit the memory that is free, or `ad` is "enzyme".
      NotForward: JAX cannot push tangents through a function.
    """
    if request.ad == "enzyme":
        raise ValueError(
            "mode='forward' is JAX's forward mode over the expanded gradients, and the step was "
            "compiled with ad='enzyme'. Use ad='auto' or mode='reverse'."
        )
    plan = forward_plan(traced)
    free = free_budget(traced.shardings)
    if plan.bytes > free:
        raise ValueError(
            f"mode='forward' carries {plan.directions:,} tangents of the state along, one for each "
            f"number in {' and '.join(request.wrt)}: {format_bytes(plan.bytes)}, and "
            f"{format_bytes(free)} are free. Use mode='reverse', whose memory does not depend on "
            "how many metaparameters there are."
        )
    return forward_program(traced, plan, captured)


def forward_plan(traced: TracedRun) -> ForwardPlan:
    """What the program does, and what it holds."""
    signature, shardings = traced.signature, traced.shardings
    count = directions.count(_places(traced))
    of = lambda leaves: device_bytes(leaves, shardings)
    state = of(signature.state.leaves)
    moving = of([signature.state.leaves[i] for i in traced.active.between_steps()])
    around = of(signature.meta.leaves) + of(signature.outer.leaves) + 2 * state
    batches, aux = of(signature.batches.leaves), of(signature.aux.leaves)
    if "batches" in signature.wrt:
        batches *= 2
    return ForwardPlan(
        traced.steps,
        count,
        count * moving,
        2 * (state + count * moving) + around,
        batches + traced.steps * aux,
    )


def forward_program(
    traced: TracedRun, plan: ForwardPlan, collected: Captured | None = None
) -> Finished:
    """The program of a traced run. `collected` is as `captured` in `lower_forward`."""
    platform = jax_internals.default_platform()
    captured = Captured() if collected is None else collected
    emitted = emit_forward(traced, captured, platform)
    captured.store_arrays()
    snapshots = _passed(traced, emitted, platform)

    def bytecode_for(other: str) -> bytes:
        return _passed(traced, emit_forward(traced, Captured(captured), other), other).program

    return Finished(
        traced.steps,
        plan,
        _decisions(traced),
        snapshots,
        emitted.module,
        emitted.callbacks,
        captured,
        platform,
        bytecode_for,
        recomputed=traced.recomputed,
    )


def emit_forward(traced: TracedRun, captured: Captured, platform: str) -> Traced:
    """The module, before any pass."""
    stage("tracing derivatives")
    with auto_context():
        step = _without_dead_code(expand_gradients(traced.differentiated))
        emitted = _lowered(traced, step, captured, platform, lambda function: function.printing)
        if emitted.muted and not (traced.step.printing and traced.outer.printing):
            # A backward rule prints, which shows only when JAX has made the backward pass.
            emitted = _lowered(traced, step, captured, platform, lambda function: True)
    return emitted


def _lowered(
    traced: TracedRun, step, captured: Captured, platform: str, is_chosen: Callable
) -> Traced:
    printed = (
        function.prints() if is_chosen(function) else None
        for function in (traced.step, traced.outer)
    )
    prints, outer_prints = (p if p is None else captured.lift(p) for p in printed)
    places = _places(traced)
    # What wrt names may have leaves without entries, and then nothing moves.
    moving = traced.active.between_steps() if directions.count(places) else ()
    run = ForwardRun(
        captured.lift(step),
        captured.lift(expand_gradients(traced.outer.jaxpr)),
        prints,
        outer_prints,
        traced.layout,
        places,
        tuple(moving),
        traced.names,
    )
    stage("lowering to MLIR")
    avals = [[leaf.aval for leaf in tree.leaves] for tree in traced.signature.arguments]
    return lower_program(run, avals, captured, platform)


def _without_dead_code(function: core.ClosedJaxpr) -> core.ClosedJaxpr:
    """The function without what its results do not need: the value of a loss, most often."""
    results = [True] * len(function.out_avals)
    jaxpr, _ = pe.dce_jaxpr(function.jaxpr, results, instantiate=True)
    return core.ClosedJaxpr(jaxpr, function.consts)


def _passed(traced: TracedRun, emitted: Traced, platform: str) -> pipeline.Snapshots:
    return pipeline.run_forward(
        emitted.module,
        platform=platform,
        devices=traced.devices,
        traced=lambda: whole_step(traced, platform),
    )


def _places(traced: TracedRun) -> tuple[directions.Place, ...]:
    trees = traced.signature.differentiated
    return directions.places(
        [
            (group, index, leaf)
            for group, tree in trees.items()
            for index, leaf in enumerate(tree.leaves)
            if leaf.is_float
        ]
    )


def _decisions(traced: TracedRun) -> tuple[Decision, ...]:
    step, outer = traced.names
    labels = dict.fromkeys(
        [site.label for site in traced.sites] or [f"the inner gradient of {step}"]
    )
    return (
        *(
            Decision(label, "forward", ("in forward mode, over its reverse pass",))
            for label in labels
        ),
        Decision(f"the update of {step}", "forward", first_order=True),
        Decision(outer, "jax", ("once, at the end of the run",), first_order=True),
    )


def makes_same_forward_program(traced: TracedRun, program: Program) -> bool:
    """Whether a traced run would make this program."""
    captured = Captured()
    emitted = emit_forward(traced, captured, program.platform)
    return captured.is_same(program.captured) and pipeline.makes_same_forward_program(
        emitted.module, program.snapshots
    )


def tangent_count(traced: TracedRun) -> int:
    """K, the number of directions."""
    return directions.count(_places(traced))
