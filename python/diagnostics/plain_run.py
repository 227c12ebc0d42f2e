"""A training run as plain JAX: a `lax.scan` of the traced step, then the outer function.

It is what the metagradient is the derivative of, and shares with it nothing but the traced
functions: no plan, no pass, no Enzyme. `metagrad.check` takes its differences of this.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core
from jax.extend.core import jaxpr_as_fun

from metagrad.compiler.dialect.metagrad import Layout
from metagrad.frontend import trace
from metagrad.frontend.dtypes import is_float
from metagrad.frontend.jaxprs import cuts, kinks
from metagrad.frontend.jaxprs.auto_axes import on_auto_axes
from metagrad.frontend.pytrees import Tree, is_array_leaf, tree_of

NAMES = ("state", "meta", "batches", "outer_args")


@dataclasses.dataclass(frozen=True)
class PlainRun:
    """A run for given arguments.

    Attributes:
      arguments: (state0, meta, batches, outer_args), in the precision of this run.
      step, outer: the traced functions over flat leaves.
      layout: how many leaves each argument has.
      trees: the arguments' trees, by name.
      is_double: whether it runs in x64 mode; all that is done with it has to be in `precision()`.
    """

    arguments: tuple
    step: core.ClosedJaxpr
    outer: core.ClosedJaxpr
    layout: Layout
    trees: dict[str, Tree]
    is_double: bool

    @property
    def dtype(self) -> Any:
        """That of the outer value."""
        return self.outer.out_avals[0].dtype

    def precision(self) -> contextlib.AbstractContextManager:
        return jax.enable_x64(True) if self.is_double else contextlib.nullcontext()

    def arrays(self) -> dict[str, list]:
        """The array leaves of each argument, in the dtypes that the run settles on.

        And what the functions capture: a large array would be a constant of the program else.
        Their types have no shardings, as those of the traced functions have none: call
        them in an `auto_context`.
        """
        arrays = {
            name: [
                on_auto_axes(array)
                if leaf.is_key
                else jnp.asarray(on_auto_axes(array), leaf.aval.dtype)
                for leaf, array in zip(tree.leaves, tree.arrays(value))
            ]
            for (name, tree), value in zip(self.trees.items(), self.arguments)
        }
        return arrays | {"captured": [*self.step.consts, *self.outer.consts]}

    def value(self, arrays: dict[str, list]) -> jax.Array:
        """The outer value, for `arrays()` or others like them."""
        captured = arrays["captured"]
        count = len(self.step.consts)
        step = jaxpr_as_fun(core.ClosedJaxpr(self.step.jaxpr, captured[:count]))
        outer = jaxpr_as_fun(core.ClosedJaxpr(self.outer.jaxpr, captured[count:]))

        def advance(state, batch):
            return step(*state, *arrays["meta"], *batch)[: self.layout.state], None

        final, _ = jax.lax.scan(advance, arrays["state"], arrays["batches"])
        return outer(*final, *arrays["outer_args"])[0]

    def without_cuts(self) -> PlainRun:
        """The same run, whose derivative in forward mode is not cut anywhere."""
        step, outer = cuts.take_out_cuts(self.step), cuts.take_out_cuts(self.outer)
        return dataclasses.replace(self, step=step, outer=outer)


def plain_run(
    step: Callable, outer: Callable, arguments: tuple, step_has_aux: bool, has_aux: bool
) -> PlainRun:
    """Traces a run.

    Raises:
      TypeError, ValueError: as `Metagradient.lower`.
    """
    state0, meta, batches, outer_args = arguments
    of_batches, of_batch, _ = trace.batches_tree(batches)
    of_meta, of_outer = tree_of("meta", meta), tree_of("outer_args", outer_args)
    traced = trace.trace_step(step, tree_of("state", state0), of_meta, of_batch, step_has_aux)
    traced_outer = trace.trace_outer(outer, traced.state, of_outer, has_aux)
    trees = dict(zip(NAMES, (traced.state, of_meta, of_batches, of_outer)))
    layout = Layout(*(len(tree.leaves) for tree in (traced.state, of_meta, of_batch, of_outer)))
    return PlainRun(arguments, traced.jaxpr, traced_outer.jaxpr, layout, trees, False)


def in_double(
    run: PlainRun, trace_run: Callable[[tuple], PlainRun], wrt: tuple[str, ...]
) -> tuple[PlainRun, str]:
    """(the run in float64, "") if all of it can be in float64, else (the run as it is, why not).

    Args:
      trace_run: traces the run for other arguments.
    """
    with jax.enable_x64(True):
        arguments = jax.tree.map(_double, run.arguments)
        try:
            double = dataclasses.replace(trace_run(arguments), is_double=True)
        # Whatever the user's code does in another precision, the run as it is can still be looked
        # at.
        except Exception as error:
            reason = (str(error).splitlines() or [""])[0]
            return (
                run,
                f"the run does not take float64 arguments ({type(error).__name__}: {reason})",
            )
        if double.dtype != jnp.float64:
            return run, f"the outer value is {double.dtype} for float64 arguments too"
        narrow = kinks.find_narrow(double.step, double.outer, double.layout, wrt)
    if narrow:
        return run, f"for float64 arguments too the run has {narrow[0]}"
    return double, ""


def _double(leaf: Any) -> Any:
    if not is_array_leaf(leaf):
        return leaf
    return jnp.asarray(leaf, jnp.float64) if is_float(jax.typeof(leaf)) else leaf
