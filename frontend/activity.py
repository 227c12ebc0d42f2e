"""Which operands of a step carry a derivative, and which results are asked for one: found on jaxprs, for what JAX differentiates and for what needs a proof.

A loss may do anything with what no derivative reaches: run a `while_loop` over the tokens of a batch, call the host with it.  Where JAX differentiates a
function in Enzyme's place it is asked for the derivative in the active operands alone, so such code is as good as in a plain step.

The compiler finds the same sets again on the MLIR (compiler/dependence.py), where they decide which buffers a cotangent needs.  Both err on the side of
too many; what only the compiler takes for active gets the zero that its derivative is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from jax._src import core

from metagrad.compiler.functions import Arguments
from metagrad.frontend import capabilities
from metagrad.frontend.reaching import reaching_inputs
from metagrad.frontend.sites import Site, inputs_of


@dataclasses.dataclass(frozen=True)
class Activity:
    """For each operand, whether a derivative is wanted in it.

    Attributes:
      state: the leaves of the state.
      data: the leaves of meta and of the batch.
      losses: for each inner gradient, the operands of its loss.
      read: the leaves of the new state from which the outer value is reached. The others have no cotangent in JAX, not even a zero that could meet an
        infinity further up.
    """

    state: tuple[bool, ...]
    data: tuple[bool, ...]
    losses: tuple[tuple[bool, ...], ...]
    read: tuple[bool, ...]

    def of_update(self, function: core.ClosedJaxpr) -> list[bool]:
        """The flags of a function that takes the operands of the step and then results of inner gradients."""
        return _with_gradients([*self.state, *self.data], function)

    def of_outer(self, function: core.ClosedJaxpr) -> list[bool]:
        """The flags of the outer function. What it takes beside the state is never differentiated."""
        return [*self.state, *(False for _ in function.in_avals[len(self.state) :])]


def find(step: core.ClosedJaxpr, outer: core.ClosedJaxpr, found: Sequence[Site], groups: Arguments, wrt: Sequence[str]) -> Activity:
    """The activity of a step whose gradients are marked, in a run that ends in the first result of `outer`.

    A leaf of the state is active if one step or several carry a derivative into it from what `wrt` names, and read if they carry one from it into the
    outer value: fixed points over the step.
    """
    sizes = {"state": groups.state, "meta": groups.meta, "batches": groups.batch}
    flags = [name in wrt for name, size in sizes.items() for _ in range(size)]
    active = [flag and capabilities.is_float(aval) for flag, aval in zip(flags, step.in_avals)]
    state, data = active[: groups.state], active[groups.state :]
    while True:
        carried = capabilities.active_results(step, [*state, *data])[: groups.state]
        grown = [a or b for a, b in zip(state, carried)]
        if grown == state:
            break
        state = grown
    readers = [inputs_of(step, list(found), site.index) for site in found]
    losses = (capabilities.active_results(reader, _with_gradients([*state, *data], reader)) for reader in readers)
    return Activity(tuple(state), tuple(data), tuple(map(tuple, losses)), tuple(_read(step.jaxpr, outer.jaxpr, groups.state)))


def _read(step: core.Jaxpr, outer: core.Jaxpr, count: int) -> list[bool]:
    """The leaves of the state from which a derivative reaches the outer value."""
    read = reaching_inputs(outer, [True, *(False for _ in outer.outvars[1:])])[:count]
    while True:
        through = reaching_inputs(step, [*read, *(False for _ in step.outvars[count:])])[:count]
        grown = [a or b for a, b in zip(read, through)]
        if grown == read:
            return read
        read = grown


def _with_gradients(active: Sequence[bool], function: core.ClosedJaxpr) -> list[bool]:
    return [*active, *map(capabilities.is_float, function.in_avals[len(active) :])]
