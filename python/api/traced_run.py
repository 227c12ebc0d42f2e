"""A step and an outer function, traced for the arguments of a metagradient, and what the frontend
finds out about them.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence

from jax.extend import core
from jax.sharding import Mesh

from metagrad.api.approximations import FirstOrder
from metagrad.api.request import Request
from metagrad.api.shardings import Shardings, shardings_of
from metagrad.api.signature import Signature
from metagrad.compiler.dialect.metagrad import Layout
from metagrad.frontend import batch_lists, call_notes, split_step, trace
from metagrad.frontend.jaxprs import activity, first_order, only_step
from metagrad.frontend.jaxprs.activations import peak
from metagrad.frontend.jaxprs.auto_axes import auto_context
from metagrad.frontend.jaxprs.blocks import recompute_blocks
from metagrad.frontend.jaxprs.counters import Counters, find_counters
from metagrad.frontend.jaxprs.unchanged_leaves import unchanged_leaves
from metagrad.frontend.meshes import mesh_of
from metagrad.frontend.pytrees import Tree, shaped, tree_of
from metagrad.frontend.recomputation import Recomputed, gradients_in, recompute_in_gradients
from metagrad.frontend.split_step import Site
from metagrad.runtime.stage_reports import stage


@dataclasses.dataclass(frozen=True)
class TracedRun:
    """A step and an outer function, traced for their arguments.

    Attributes:
      step, outer: the traced functions.
      differentiated: the step as it is differentiated: some derivatives may be stopped in it.
      marked: the same, its gradients marked.
      sites: the gradients.
      signature: the trees of arguments and results.
      shardings: of the arguments that lie on several devices.
      mesh: the devices that the functions speak of, if there are several.
      layout: sizes of the argument groups.
      active: where there are cotangents.
      unchanged: the leaves of the state that the step returns as they came, by index.
      counters: those that depend on the step's number alone; None if there are none.
      steps: T.
      names: what the user calls the step and the outer function.
      recomputed: for each loss and the outer function, by name, the blocks that are computed again;
        None if none are to be.
      look: the same functions, with blocks computed again (True) or without.
    """

    step: trace.TracedStep
    outer: trace.TracedOuter
    differentiated: core.ClosedJaxpr
    marked: core.ClosedJaxpr
    sites: Sequence[Site]
    signature: Signature
    shardings: Shardings
    mesh: Mesh | None
    layout: Layout
    active: activity.Activity
    unchanged: list[int]
    counters: Counters | None
    steps: int
    names: tuple[str, str]
    recomputed: Recomputed | None
    look: Callable[[bool], TracedRun]

    @property
    def devices(self) -> int:
        """How many the run is known to be on."""
        sharded = (sharding.num_devices for sharding in self.shardings.values())
        return max(sharded, default=1 if self.mesh is None else self.mesh.size)

    @property
    def has_blocks(self) -> bool:
        """Whether something is computed again that `remat` found."""
        return self.recomputed is not None and any(self.recomputed.values())

    @functools.cached_property
    def temporaries(self) -> int:
        """Bytes on a device that activations take in the VJP of a step, a rough estimate."""
        losses = [eqn.params["jaxpr"].jaxpr for eqn in gradients_in(self.marked.jaxpr)]
        differentiated = [*losses, self.outer.jaxpr.jaxpr]
        if not losses:
            differentiated.append(self.marked.jaxpr)
        return max(map(peak, differentiated)) // self.devices


def trace_run(request: Request, arguments) -> TracedRun:
    """Traces both functions and looks at what they hold, without blocks that are computed again.

    Raises:
      TypeError, ValueError: an argument or a function is not what it must be; the message names it.
    """
    state0, meta, batches, outer_args = arguments
    batches_tree, batch_tree, steps = trace.batches_tree(batches)
    meta_tree, outer_tree = tree_of("meta", meta), tree_of("outer_args", outer_args)
    stage("tracing the step")
    state_tree = tree_of("state", state0)
    _check_shapes(state_tree, meta_tree, batches_tree, outer_tree)
    traced = trace.trace_step(
        request.step,
        state_tree,
        meta_tree,
        batch_tree,
        request.step_has_aux,
        note=lambda: call_notes.of_step(
            state_tree, meta_tree, batch_tree, steps, batch_lists.hint(batches)
        ),
    )
    stage("tracing the outer function")
    traced_outer = trace.trace_outer(request.outer, traced.final, outer_tree, request.has_aux)
    signature = Signature(
        state=traced.state,
        meta=meta_tree,
        batches=batches_tree,
        outer=outer_tree,
        aux=traced.aux,
        outer_aux=traced_outer.aux,
        wrt=request.wrt,
        single=request.single,
        step_has_aux=request.step_has_aux,
        has_aux=request.has_aux,
    )
    _check_float_leaves(signature)
    return look_at(request, arguments, traced, traced_outer, signature, steps)


def look_at(
    request: Request,
    arguments,
    traced: trace.TracedStep,
    traced_outer: trace.TracedOuter,
    signature: Signature,
    steps: int,
) -> TracedRun:
    """The traced functions, and what they hold, without blocks that are computed again."""

    @functools.cache
    def look(recompute: bool) -> TracedRun:
        with auto_context():
            return _looked_at(
                request, arguments, traced, traced_outer, recompute, signature, steps, look
            )

    return look(False)


def _looked_at(
    request: Request,
    arguments,
    traced: trace.TracedStep,
    traced_outer: trace.TracedOuter,
    recompute: bool,
    signature: Signature,
    steps: int,
    look: Callable[[bool], TracedRun],
) -> TracedRun:
    leaves = len(traced.state.leaves)
    differentiated = traced.jaxpr
    if FirstOrder() in request.approximations:
        differentiated = first_order.stop_parameters(differentiated, leaves, request.step_name)
    if steps == 1:
        differentiated = only_step.stop_unread_state(differentiated, traced_outer.jaxpr, leaves)
    names = request.step_name, request.outer_name.replace("<lambda>", "outer (a lambda)")
    recomputed = None
    if recompute:
        differentiated, recomputed = recompute_in_gradients(differentiated, names[0])
        of_outer = recompute_blocks(traced_outer.jaxpr)
        traced_outer = dataclasses.replace(traced_outer, jaxpr=of_outer.function)
        recomputed |= {names[1]: of_outer.blocks}
    marked, sites = split_step.mark_gradients(differentiated)
    layout = Layout(
        state=len(traced.state.leaves),
        meta=len(signature.meta.leaves),
        batch=len(signature.batches.leaves),
        outer=len(signature.outer.leaves),
    )
    active = activity.find_activity(marked, traced_outer.jaxpr, sites, layout, request.wrt)
    unchanged = unchanged_leaves(marked, layout.state)
    return TracedRun(
        traced,
        traced_outer,
        differentiated,
        marked,
        sites,
        signature,
        shardings_of(signature.arguments, arguments),
        mesh_of([traced.jaxpr, traced_outer.jaxpr]),
        layout,
        active,
        unchanged,
        find_counters(marked, layout, unchanged),
        steps,
        names,
        recomputed,
        look,
    )


def _check_shapes(*trees: Tree) -> None:
    for leaf in (leaf for tree in trees for leaf in tree.leaves):
        if not all(isinstance(length, int) for length in leaf.aval.shape):
            raise NotImplementedError(
                f"{leaf.path} has the shape {leaf.aval.shape}, with a dimension that is a symbol "
                "(jax.export.symbolic_shape). A metagradient is compiled for shapes that are "
                "numbers: export it once for each of those."
            )


def _check_float_leaves(signature: Signature) -> None:
    trees = {"state": signature.state, "meta": signature.meta, "batches": signature.batches}
    for name in signature.wrt:
        if not any(leaf.is_float for leaf in trees[name].leaves):
            leaves = (
                ", ".join(f"{leaf.path} {shaped(leaf.aval)}" for leaf in trees[name].leaves)
                or "no arrays at all"
            )
            raise TypeError(
                f'wrt names "{name}", which has no floating-point leaf to differentiate with '
                f"respect to: it has {leaves}. "
                "Hold what you want the gradient of as floating-point arrays."
            )
