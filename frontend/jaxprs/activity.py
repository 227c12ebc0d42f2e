"""Which operands of a step carry a derivative, and which results have a cotangent.

What is active must be differentiated: by JAX, or by Enzyme with a proof in the table.

A loss may do anything with a value that no derivative reaches: run a `while_loop` over the tokens
of a batch, or call the host with it. Where JAX differentiates a function in Enzyme's place it is
asked for the derivative in the active operands alone. So such code works as in a plain step.

This is decided on jaxprs, where custom rules, loops and branches can still be told apart. The
module tells the compiler the result, and the compiler uses it as it is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from jax.extend import core

from metagrad.compiler.dialect.metagrad import Layout
from metagrad.frontend import capabilities
from metagrad.frontend.dtypes import is_float
from metagrad.frontend.jaxprs.cotangent_flow import reaching_inputs
from metagrad.frontend.split_step import Site, inputs_of, update_of


@dataclasses.dataclass(frozen=True)
class Activity:
    """Where in a step there are cotangents.

    Attributes:
      state: for each leaf of the state, whether a derivative is wanted in it: `wrt` reaches it, in
        one step or several.
      data: the same for the leaves of meta and of the batch.
      new_state: for each leaf of the new state, whether it has a cotangent: it reaches the outer
        value, in one step or several. The others have none in JAX, not even a zero that could meet
        an infinity further up.
      losses: for each inner gradient, the operands of its loss in which a derivative is wanted and
        which have one.
      gradients: for each inner gradient, which of its results have a cotangent, by index.
    """

    state: tuple[bool, ...]
    data: tuple[bool, ...]
    new_state: tuple[bool, ...]
    losses: tuple[tuple[bool, ...], ...]
    gradients: tuple[tuple[int, ...], ...]

    def of_update(self, function: core.ClosedJaxpr) -> list[bool]:
        """The flags of a function of the step's operands followed by results of inner gradients."""
        return _with_gradients([*self.state, *self.data], function)

    def of_outer(self, function: core.ClosedJaxpr) -> list[bool]:
        """The flags of the outer function.

        What it takes beside the state is never differentiated.
        """
        return [*self.state, *(False for _ in function.in_avals[len(self.state) :])]

    def of_new_state(self) -> list[int]:
        """The results of the update with a cotangent, by index."""
        return [i for i, flag in enumerate(self.new_state) if flag]

    def active_operands(self, gradient: int) -> list[int]:
        """The operands of a gradient's loss in which a derivative is wanted, by index."""
        return [i for i, flag in enumerate(self.losses[gradient]) if flag]

    def between_steps(self) -> list[int]:
        """The leaves of the state whose cotangent goes from step to step, by index."""
        return [
            i for i, (wanted, has) in enumerate(zip(self.state, self.new_state)) if wanted and has
        ]


def find_activity(
    step: core.ClosedJaxpr,
    outer: core.ClosedJaxpr,
    sites: Sequence[Site],
    layout: Layout,
    wrt: Sequence[str],
) -> Activity:
    """The activity of a step with marked gradients, in a run that ends in `outer`'s value."""
    state, data = _wanted(step, layout, wrt)
    new_state = _reaching_outer(step.jaxpr, outer.jaxpr, layout.state)
    losses, gradients = _of_gradients(
        step,
        list(sites),
        [*state, *data],
        [*new_state, *(False for _ in step.out_avals[layout.state :])],
    )
    return Activity(tuple(state), tuple(data), tuple(new_state), tuple(losses), tuple(gradients))


def _wanted(
    step: core.ClosedJaxpr, layout: Layout, wrt: Sequence[str]
) -> tuple[list[bool], list[bool]]:
    """The operands of the step that `wrt` reaches: (state, data). A fixed point over the step."""
    differentiated = set(layout.differentiated(wrt))
    active = [
        i in differentiated and is_float(aval)
        for i, aval in enumerate(step.in_avals[: layout.step])
    ]
    state, data = active[: layout.state], active[layout.state :]
    while True:
        carried = capabilities.active_results(step, [*state, *data])[: layout.state]
        grown = [a or b for a, b in zip(state, carried)]
        if grown == state:
            return state, data
        state = grown


def _reaching_outer(step: core.Jaxpr, outer: core.Jaxpr, count: int) -> list[bool]:
    """The leaves of the state from which a derivative reaches the outer value.

    A fixed point over the step.
    """
    reached = reaching_inputs(outer, [True, *(False for _ in outer.outvars[1:])])[:count]
    while True:
        through = reaching_inputs(step, [*reached, *(False for _ in step.outvars[count:])])[:count]
        grown = [a or b for a, b in zip(reached, through)]
        if grown == reached:
            return reached
        reached = grown


def _of_gradients(
    step, sites: list[Site], operands: list[bool], results: list[bool]
) -> tuple[list[tuple[bool, ...]], list[tuple[int, ...]]]:
    """(active operands of the losses, results of the gradients with a cotangent).

    The last gradient is looked at first: a gradient that depends on an earlier one gives that one
    its cotangents.
    """
    update = update_of(step, sites)
    of_inner = reaching_inputs(update.jaxpr, results)[len(operands) :]
    losses, gradients = [], []
    for site in reversed(sites):
        first = sum(len(earlier_site.kept) for earlier_site in sites[: site.index])
        seeded = tuple(i for k, i in enumerate(site.kept) if of_inner[first + k])
        outputs = len(site.loss.out_avals)
        reached = reaching_inputs(
            site.loss.jaxpr, [i == 0 or i in site.kept for i in range(outputs)]
        )
        reader = inputs_of(step, sites, site.index)
        wanted = capabilities.active_results(reader, _with_gradients(operands, reader))
        active = [a and b for a, b in zip(wanted, reached)]
        if seeded:
            earlier = reaching_inputs(reader.jaxpr, active)[len(operands) :]
            of_inner = [a or b for a, b in zip(of_inner, earlier)] + of_inner[len(earlier) :]
        losses.append(tuple(active))
        gradients.append(seeded)
    return losses[::-1], gradients[::-1]


def _with_gradients(active: Sequence[bool], function: core.ClosedJaxpr) -> list[bool]:
    return [*active, *map(is_float, function.in_avals[len(active) :])]
