"""A step and an outer function, traced for the arguments of a metagradient, and what the frontend
finds out about them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from jax.extend import core
from jax.sharding import Mesh

from metagrad.api.request import Request
from metagrad.api.shardings import Shardings, shardings_of
from metagrad.api.signature import Signature
from metagrad.compiler.dialect.metagrad import Layout
from metagrad.frontend import batch_lists, call_notes, split_step, trace
from metagrad.frontend.jaxprs import activity, only_step
from metagrad.frontend.jaxprs.auto_axes import auto_context
from metagrad.frontend.jaxprs.counters import Counters, find_counters
from metagrad.frontend.jaxprs.unchanged_leaves import unchanged_leaves
from metagrad.frontend.meshes import mesh_of
from metagrad.frontend.pytrees import Tree, shaped, tree_of
from metagrad.frontend.split_step import Site
from metagrad.runtime.stage_reports import stage


@dataclasses.dataclass(frozen=True)
class TracedRun:
    """A step and an outer function, traced for their arguments.

    Attributes:
      step, outer: the traced functions.
      marked: the step's jaxpr, its gradients marked.
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
    """

    step: trace.TracedStep
    outer: trace.TracedOuter
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

    @property
    def devices(self) -> int:
        """How many the run is known to be on."""
        sharded = (sharding.num_devices for sharding in self.shardings.values())
        return max(sharded, default=1 if self.mesh is None else self.mesh.size)


def trace_run(request: Request, arguments) -> TracedRun:
    """Traces both functions and looks at what they hold.

    Raises:
      TypeError, ValueError: an argument or a function is not what it must be; the message names it.
    """
    state0, meta, batches, outer_args = arguments
    batches_tree, batch_tree, steps = trace.batches_tree(batches)
    meta_tree, outer_tree = tree_of("meta", meta), tree_of("outer_args", outer_args)
    stage("tracing the step")
    state_tree = tree_of("state", state0)
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
    with auto_context():
        return _looked_at(request, arguments, traced, traced_outer, signature, batch_tree, steps)


def _looked_at(
    request: Request,
    arguments,
    traced: trace.TracedStep,
    traced_outer: trace.TracedOuter,
    signature: Signature,
    batch_tree: Tree,
    steps: int,
) -> TracedRun:
    differentiated = traced.jaxpr
    if steps == 1:
        leaves = len(traced.state.leaves)
        differentiated = only_step.stop_unread_state(traced.jaxpr, traced_outer.jaxpr, leaves)
    marked, sites = split_step.mark_gradients(differentiated)
    names = request.step_name, request.outer_name.replace("<lambda>", "outer (a lambda)")
    layout = Layout(
        state=len(traced.state.leaves),
        meta=len(signature.meta.leaves),
        batch=len(batch_tree.leaves),
        outer=len(signature.outer.leaves),
    )
    active = activity.find_activity(marked, traced_outer.jaxpr, sites, layout, request.wrt)
    unchanged = unchanged_leaves(marked, layout.state)
    return TracedRun(
        traced,
        traced_outer,
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
