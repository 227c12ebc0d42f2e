"""A run of which only the last steps are differentiated (`metagrad.Truncated`), lowered.

It is a program for the last steps, of either mode, behind a loop of plain steps.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
from jax.extend import core

from metagrad.api.assemble import Finished
from metagrad.api.request import Request
from metagrad.api.traced_run import TracedRun, look_at
from metagrad.compiler import pipeline
from metagrad.frontend.captured import Captured
from metagrad.frontend.emit_mlir import Traced
from metagrad.frontend.forward.emit import lower_program
from metagrad.frontend.forward.plain_first import PlainFirst
from metagrad.frontend.jaxprs.auto_axes import auto_context
from metagrad.frontend.jaxprs.expand_gradients import expand_gradients
from metagrad.frontend.pytrees import Tree, is_array_leaf
from metagrad.runtime.executors.fused import FusedProgram


def of_last_steps(
    request: Request, traced: TracedRun, arguments: tuple, steps: int
) -> tuple[TracedRun, tuple]:
    """A traced run and its arguments, of the last `steps` steps alone."""
    state0, meta, batches, outer_args = arguments
    batches_tree = _shortened(traced.signature.batches, steps)
    late = jax.tree.map(lambda leaf: _last(leaf, steps), batches)
    late_arguments = (state0, meta, late, outer_args)
    signature = dataclasses.replace(traced.signature, batches=batches_tree)
    return (
        look_at(request, late_arguments, traced.step, traced.outer, signature, steps),
        late_arguments,
    )


def _shortened(tree: Tree, steps: int) -> Tree:
    def short(aval: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        return aval.update(shape=(steps, *aval.shape[1:]))

    leaves = tuple(
        dataclasses.replace(leaf, aval=short(leaf.aval), stored=short(leaf.stored))
        for leaf in tree.leaves
    )
    return dataclasses.replace(tree, leaves=leaves)


def _last(leaf: Any, steps: int) -> Any:
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return leaf.update(shape=(steps, *leaf.shape[1:]))
    return leaf[-steps:] if is_array_leaf(leaf) else leaf


def behind_plain_steps(traced: TracedRun, late: TracedRun, last: Finished) -> Finished:
    """The program of all steps.

    Args:
      traced: of all steps.
      late: of the last ones.
      last: their program.
    """
    rest = last.fused(late)
    emit = functools.partial(_emitted, traced, traced.steps - late.steps, rest, last.captured)
    is_printing = traced.step.printing
    with auto_context():
        prints = traced.step.prints() if is_printing else None
        emitted = emit(prints, last.platform)
        if emitted.muted and not is_printing:
            # A backward rule prints, which shows only when JAX has made the backward pass.
            prints = traced.step.prints()
            emitted = emit(prints, last.platform)
    last.captured.store_arrays()
    snapshots = last.snapshots
    snapshots.take(snapshots.stages[-1], emitted.module)

    def bytecode_for(platform: str) -> bytes:
        with auto_context():
            return pipeline.bytecode_of(emit(prints, platform).module)

    return dataclasses.replace(
        last,
        steps=traced.steps,
        module=emitted.module,
        callbacks=emitted.callbacks,
        bytecode_for=bytecode_for,
    )


def _emitted(
    traced: TracedRun,
    first: int,
    rest: FusedProgram,
    captured: Captured,
    prints: core.ClosedJaxpr | None,
    platform: str,
) -> Traced:
    """The finished module of all steps.

    Args:
      first: how many steps are plain.
      rest: the program of the others.
      captured: what `rest` takes last. What the first steps capture is found in it, or added.
      prints: what the step prints; None if nothing.
    """
    signature = traced.signature
    run = PlainFirst(
        captured.lift(expand_gradients(traced.step.jaxpr)),
        None if prints is None else captured.lift(prints),
        rest.call,
        first,
        signature.state.leaves,
        signature.aux.leaves,
        rest.inputs[len(signature.inputs) :],
        _by_batch(traced),
    )
    avals = [[leaf.aval for leaf in tree.leaves] for tree in signature.arguments]
    emitted = lower_program(run, avals, captured, platform)
    pipeline.finish_program(emitted.module, platform, traced.devices)
    return emitted


def _by_batch(traced: TracedRun) -> dict[int, int]:
    """The results that are gradients in batches, and their axis of batches."""
    signature = traced.signature
    queries = len(traced.outer.jaxpr.out_avals[0].shape)
    first = 1 + len(signature.outer_aux.leaves)
    names = [name for name, _ in signature.gradient_leaves()]
    return {first + i: queries for i, name in enumerate(names) if name == "batches"}
