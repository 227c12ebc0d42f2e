"""One call of a streamed metagradient: from its arrays and a stream to the result."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jaxlib
import numpy as np

from metagrad.api.digests import digest_arrays, digest_bytes
from metagrad.api.run_placement import RunPlacement
from metagrad.api.run_progress import reported
from metagrad.api.streamed_executable import StreamedExecutable
from metagrad.api.streamed_result import assemble, check_finite
from metagrad.diagnostics import debug_checks
from metagrad.runtime import jax_internals
from metagrad.runtime.executors import walk_progress
from metagrad.runtime.executors.collectors import BatchGradients, Rows, Sums
from metagrad.runtime.executors.kernels import Arrays, Kernels
from metagrad.runtime.executors.replay_check import ReplayCheck
from metagrad.runtime.executors.save_turns import CommonTurns
from metagrad.runtime.executors.saver import Kept, Saver
from metagrad.runtime.executors.streamed import Standing, StreamedRun
from metagrad.runtime.executors.walk import Action, Kind, actions, bounds
from metagrad.runtime.journal import Journal
from metagrad.runtime.processes import Processes
from metagrad.runtime.progress_reports import Reporter
from metagrad.runtime.schedules.plan import Plan
from metagrad.runtime.schedules.two_level import TIERS, TwoLevelPlan
from metagrad.runtime.streams import GradientSink, Prefetcher, Stream
from metagrad.runtime.streams.batch_shards import BatchShards
from metagrad.runtime.tiers.device import DeviceTier
from metagrad.runtime.tiers.disk import DiskTier
from metagrad.runtime.tiers.host import host_tier
from metagrad.runtime.tiers.placed_slots import PlacedSlots
from metagrad.runtime.tiers.tier import Tier


def run_streamed(
    program: StreamedExecutable, plan: TwoLevelPlan, arrays: Arrays, stream: Stream
) -> Any:
    """Runs a plan and gives the result.

    Args:
      arrays: the leaves of state0, meta and outer_args, one after the other.
      stream: the batches; its length is the plan's number of steps.

    Raises:
      TypeError: a batch is not what the program was lowered for, or the stream is of shapes.
      ValueError: the stream says where gradients of batches go, and there are none.
      JournalError: the directory cannot be used, or holds another run.
      ReplayError: see `StreamedRun`.
      FloatingPointError: see `check_finite`.
      Any other: what the stream, a function of the user's, or a tier raises.
    """
    check_gradients(program.signature.wrt, stream)
    stream.check_values()
    _check_batches(program, stream)
    layout, n = stream.layout(), program.layout
    placement = RunPlacement.of(program, program.kernels(plan.segment_slots), arrays, stream)
    kernels, arguments = placement.kernels, placement.arguments
    processes, shards = placement.processes, placement.shards
    if processes is not None:
        _check_gradients_in_memory(stream)
    walk = actions(plan.outer)
    options, steps = program.options, plan.steps
    raises = options.check_nans or debug_checks.are_on()
    with contextlib.ExitStack() as stack:
        if debug_checks.are_on():
            # JAX would look into each result of a kernel. The result of the run is looked at.
            stack.enter_context(debug_checks.unchecked())
        journal = None
        if options.resume_dir is not None:
            identity = _identity(program, plan, placement, stream)
            folder = pathlib.Path(options.resume_dir)
            if processes is not None:
                folder /= f"process-{jax.process_index()}"
            journal = stack.enter_context(Journal.open(folder, identity))
            if processes is not None:
                journal.go_back(_common_point(journal, processes))
        slots = stack.enter_context(_slots(plan))
        slots.allocate(program.changed)
        sink = batch_bar = None
        if "batches" in program.signature.wrt:
            sink = stream.gradient_sink(program.queries)
            stack.callback(sink.close)
            batch_bar = _batch_gradients(
                sink, program, checks=bool(raises) or options.check_nans is not False
            )
        aux = Rows(steps, _aux_avals(kernels)) if n.aux else None
        sums = Sums(layout, steps)
        check = _replay_check(program, plan) if kernels.checksums else None
        saver, standing = None, placement.start()
        if journal is not None:
            saver = Saver(
                journal,
                slots,
                _kept(sums, aux, batch_bar, check),
                options.save_every,
                placement,
                None if processes is None else CommonTurns(processes),
            )
            if (point := journal.latest()) is not None:
                standing = saver.resume(point)
        counts = walk_progress.counts(walk, plan.segment, steps, functools.cache(plan.replayed))
        reporter = stack.enter_context(_reported(options.progress, counts, standing.position))
        reporter.update(*counts[standing.position], slots.bytes_in_use)
        feed = stack.enter_context(
            Prefetcher(
                stream,
                _requests(walk[standing.position :], plan),
                plan.segment,
                checksums=sums.checksums,
                place=None if _is_on_host() else placement.place,
                shards=shards,
            )
        )
        run = StreamedRun(
            kernels,
            steps,
            walk,
            arguments,
            standing,
            feed=feed,
            slots=saver or slots,
            aux=aux,
            batch_bar=batch_bar,
            check=check,
            on_start=_on_start(saver, reporter, counts, slots),
        )
        standing = run.run()
        # In this order a run that is killed here is made again, at the worst: once a folder says
        # that its gradients are complete, no run writes to it.
        if journal is not None:
            if processes is not None:
                # One that is killed before this finds its journal, and so do the others.
                processes.answers("at the end")
            journal.finish()
        gradient = sink.result() if sink is not None else None
        result = assemble(program, arguments, standing, aux, gradient)
        check_finite(program, result, batch_bar, raises)
    return result


def refuse_traced_call() -> None:
    """Raises TypeError for a call under a transformation of JAX."""
    if jax_internals.is_traced_call():
        raise TypeError(
            "a streamed metagradient is run by the host, so it cannot be a part of another "
            "program: call it outside of jax.jit and other transformations of JAX. (Stacked "
            'arrays and runtime="fused" make one program.)'
        )


def check_gradients(wrt: Sequence[str], stream: Stream) -> None:
    """Raises ValueError for a stream that wants gradients of batches which are not computed."""
    if stream.gradients is not None and "batches" not in wrt:
        raise ValueError(
            "Stream(gradients=...) says where the gradients of batches go, and there are none: "
            'name them, metagradient(..., wrt="batches") or wrt=("meta", "batches"), or leave '
            "gradients out."
        )


def _requests(walk: Sequence[Action], plan: TwoLevelPlan) -> list[tuple[int, int]]:
    """The segments whose batches a walk takes, in order: the first step of each, and how many."""
    return [
        bounds(action.segment, plan.segment, plan.steps)
        for action in walk
        if action.kind in (Kind.ADVANCE, Kind.REVERSE)
    ]


def _check_batches(program: StreamedExecutable, stream: Stream) -> None:
    """Compares a stream with what the program was lowered for.

    Raises:
      TypeError: a structure, a shape or a dtype differs; the message names the leaf.
    """
    batches = program.signature.batches
    layout = stream.layout()
    if layout.structure != batches.structure:
        raise TypeError(
            f"a batch has the structure {layout.structure}, and this program was compiled for "
            f"{batches.structure}"
        )
    for leaf, ours in zip(layout.leaves, batches.leaves):
        expected = ours.aval.shape[1:], ours.aval.dtype
        if (leaf.aval.shape, leaf.aval.dtype) != expected:
            raise TypeError(
                f"{leaf.path} of a batch is {leaf.aval.dtype}{list(leaf.aval.shape)}, and this "
                f"program was compiled for {expected[1]}{list(expected[0])}"
            )


def _slots(plan: TwoLevelPlan) -> PlacedSlots:
    makers: dict[str, Callable[[], Tier]] = {
        "device": DeviceTier,
        "host": host_tier,
        "disk": DiskTier,
    }
    used = sorted(set(plan.tier_of_slot))
    tiers = [makers[TIERS[i]]() for i in used]
    return PlacedSlots(tiers, [used.index(i) for i in plan.tier_of_slot])


def _common_point(journal: Journal, processes: Processes) -> int | None:
    """The latest point that the journals of all processes have; None if there is none."""
    positions = processes.answers([point.position for point in journal.points])
    return max(set.intersection(*map(set, positions)), default=None)


def _check_gradients_in_memory(stream: Stream) -> None:
    if stream.gradients is not None:
        raise ValueError(
            "Stream(gradients=...) is for runs of one process, and this one is on the devices of "
            "several. Leave it out: each process then gets the gradients of all batches as arrays "
            "in its memory."
        )


def _is_on_host() -> bool:
    """Whether the devices compute in the host's own memory, so that nothing need be moved."""
    return all(device.platform == "cpu" for device in jax.devices())


def _aux_avals(kernels: Kernels) -> Sequence[jax.ShapeDtypeStruct]:
    first = len(kernels.layout.changed)
    return kernels.advance.outputs[first : first + kernels.layout.aux]


def _replay_check(program: StreamedExecutable, plan: TwoLevelPlan) -> ReplayCheck:
    leaves = program.signature.state.leaves
    paths = [leaves[i].path for i in program.layout.changed]
    return ReplayCheck(plan.segment, plan.steps, paths, program.platform)


def _kept(
    sums: Sums, aux: Rows | None, batch_bar: BatchGradients | None, check: ReplayCheck | None
) -> dict[str, Kept]:
    kept: dict[str, Any] = {"checksums": sums, "aux": aux, "gradients": batch_bar, "replays": check}
    return {name: each for name, each in kept.items() if each is not None}


def _batch_gradients(
    sink: GradientSink, program: StreamedExecutable, *, checks: bool
) -> BatchGradients:
    floats = program.layout.float_leaves["batches"]
    # Behind the axis of the steps.
    stacks = [program.signature.batches.leaves[i].stored for i in floats]
    rows = [
        jax.ShapeDtypeStruct((*program.queries, *stack.shape[1:]), stack.dtype) for stack in stacks
    ]
    return BatchGradients(sink, floats, program.layout.batch_bar, rows, program.queries, checks)


def _reported(progress: Any, counts: list[walk_progress.Count], position: int):
    _, advances, vjps = counts[-1]
    _, advanced, reversed = counts[position]
    return reported(progress, advances, vjps, advanced=advanced, reversed=reversed)


def _on_start(
    saver: Saver | None,
    reporter: Reporter,
    counts: list[walk_progress.Count],
    slots: PlacedSlots,
) -> Callable[[Standing], Callable[[], None]]:
    def on_start(standing: Standing) -> Callable[[], None]:
        commit = saver.point(standing) if saver is not None else None
        in_use = slots.bytes_in_use

        def done() -> None:
            if commit is not None:
                commit()
            reporter.update(*counts[standing.position], in_use)

        return done

    return on_start


# --- The identity of a run ------------------------------------------------------------------------


def _identity(
    program: StreamedExecutable, plan: TwoLevelPlan, placement: RunPlacement, stream: Stream
) -> dict[str, str | int]:
    """What must be the same for a run to be resumed, by the name that an error gives it.

    Of arrays on several processes it is what this one has of them.
    """
    arguments, shards = placement.arguments, placement.shards
    device = jax.local_devices()[0]
    left = plan.steps - (plan.outer.steps - 1) * plan.segment
    # Only the tables: two plans that do the same are the same, whatever made them.
    plans = [
        dataclasses.replace(each, schedule="", estimate=None)
        for each in (plan.outer, plan.inner, plan.segment_slots.plan(left))
    ]
    on_several: dict[str, str | int] = {}
    if shards is not None:
        on_several["the shardings"] = digest_bytes(repr(placement.kernels.shardings).encode())
    return on_several | {
        "the program": digest_bytes(program.fingerprint().encode()),
        "the number of steps": plan.steps,
        "the steps of a segment": plan.segment,
        "the slots between segments": plan.outer.state_slots,
        "the plan": digest_bytes(repr(tuple(map(Plan.jsonable, plans))).encode()),
        "verify": str(program.options.verify),
        "wrt": ", ".join(program.signature.wrt),
        "where the gradients of batches go": _destination(stream),
        "state0": digest_arrays(arguments.state0),
        "meta": digest_arrays(arguments.meta),
        "outer_args": digest_arrays(arguments.outer),
        "captured arrays": digest_arrays(arguments.captured),
        "the order of the stream": digest_arrays([] if stream.order is None else [stream.order]),
        "batch 0": digest_arrays(_first_batch(stream, shards)),
        "the device": f"{device.platform} {device.device_kind}",
        "jax": jax.__version__,
        "jaxlib": jaxlib.__version__,
    }


def _first_batch(stream: Stream, shards: BatchShards | None) -> Sequence[Any]:
    """The leaves of batch 0, as far as this process reads them."""
    if shards is None:
        return jax.tree.leaves(stream[0])
    buffers = [
        np.empty((1, *shards.read_shape(i)), leaf.stored.dtype)
        for i, leaf in enumerate(shards.layout.leaves)
    ]
    stream.read(0, shards.layout, buffers, shards.rows)
    return buffers


def _destination(stream: Stream) -> str:
    match stream.gradients:
        case None:
            return "memory"
        case str():
            return stream.gradients
    return "a function"
