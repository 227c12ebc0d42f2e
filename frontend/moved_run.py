"""A step and an outer function with tangents: both under `jax.jvp`.

    state, meta, batch      the leaves, and behind them the tangents of those that move
    outer                   (state, arguments) -> (tangent of the value, tangents of aux)

The gradient of the value's tangent in a leaf is the tangent of the gradient: with a direction v of
the metaparameters z, d/dz <d value / dz, v> is the product of the run's Hessian with v. So a run
with its tangents is differentiated in reverse as any run is: forward mode inside, reverse mode
around it, and any schedule.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax.extend import core
from jax.extend.core import jaxpr_as_fun

from metagrad.frontend.dtypes import is_float
from metagrad.runtime.moving_operands import push


@dataclasses.dataclass(frozen=True)
class MovedRun:
    """The functions, over lists of arrays, and which leaves have a tangent.

    Attributes:
      step: (state, meta, batch) -> (state', tangents of aux), tangents behind the leaves.
      outer: (state, *arguments) -> (tangent of the value, tangents of aux).
      state, meta, batch, arguments: the leaves that have a tangent, by index.
      aux, outer_aux: the same for the auxiliary results.
    """

    step: Callable
    outer: Callable
    state: tuple[int, ...]
    meta: tuple[int, ...]
    batch: tuple[int, ...]
    arguments: tuple[int, ...]
    aux: tuple[int, ...]
    outer_aux: tuple[int, ...]


def moved_run(
    step: core.ClosedJaxpr,
    outer: core.ClosedJaxpr,
    sizes: tuple[int, int, int],
    state: Sequence[int],
    meta: Sequence[int],
    batch: Sequence[int],
    arguments: Sequence[int],
) -> MovedRun:
    """The functions with tangents.

    Args:
      step: (state, meta, batch) -> (state', aux), over leaves.
      outer: (state, arguments) -> (value, aux), over leaves.
      sizes: numbers of leaves of state, meta and a batch.
      state, meta, batch, arguments: the leaves that have a tangent before the first step, by index.
    """
    leaves, metas, _ = sizes
    of_data = [leaves + i for i in meta] + [leaves + metas + i for i in batch]
    state, moved = _moving(step, state, of_data, leaves)
    outer_moved = _tangents(outer, [*state, *(leaves + i for i in arguments)])
    aux = tuple(i - leaves for i in moved if i >= leaves)
    outer_aux = tuple(i - 1 for i in outer_moved if i > 0)

    def moved_step(state_leaves, meta_leaves, batch_leaves):
        operands = [
            _split(state_leaves, state),
            _split(meta_leaves, meta),
            _split(batch_leaves, batch),
        ]
        results, tangents = _pushed(
            step,
            [leaf for primals, _ in operands for leaf in primals],
            [*state, *of_data],
            [tangent for _, of_group in operands for tangent in of_group],
        )
        new_state = [*results[:leaves], *(tangents[i] for i in state)]
        return new_state, [tangents[leaves + i] for i in aux]

    def moved_outer(state_leaves, *argument_leaves):
        primals, state_tangents = _split(state_leaves, state)
        arguments_primal, argument_tangents = _split(argument_leaves, arguments)
        _, tangents = _pushed(
            outer,
            [*primals, *arguments_primal],
            [*state, *(leaves + i for i in arguments)],
            [*state_tangents, *argument_tangents],
        )
        return tangents[0], [tangents[1 + i] for i in outer_aux]

    return MovedRun(
        moved_step,
        moved_outer,
        tuple(state),
        tuple(meta),
        tuple(batch),
        tuple(arguments),
        aux,
        outer_aux,
    )


def _split(leaves: Sequence, moving: Sequence[int]) -> tuple[list, list]:
    """The leaves, and the tangents behind them."""
    count = len(leaves) - len(moving)
    return list(leaves[:count]), list(leaves[count:])


def _moving(
    step: core.ClosedJaxpr, state: Sequence[int], of_data: Sequence[int], leaves: int
) -> tuple[list[int], list[int]]:
    """The leaves of the state that have a tangent before some step; and the results that have."""
    state = list(state)
    while True:
        moved = _tangents(step, [*state, *of_data])
        grown = sorted({*state, *(i for i in moved if i < leaves)})
        if grown == state:
            return state, moved
        state = grown


def _tangents(function: core.ClosedJaxpr, moving: Sequence[int]) -> list[int]:
    """The results that have a tangent that is not zero for certain, by index."""
    avals = function.in_avals
    pushed = jax.make_jaxpr(
        lambda primals, tangents: [
            tangent
            for tangent, out in zip(
                _pushed(function, primals, moving, tangents)[1], function.out_avals
            )
            if is_float(out)
        ]
    )(list(avals), [tangent_of(avals[i]) for i in moving]).jaxpr
    reached = set(pushed.invars[len(avals) :])
    for eqn in pushed.eqns:
        if any(isinstance(atom, core.Var) and atom in reached for atom in eqn.invars):
            reached.update(eqn.outvars)
    float_results = [i for i, out in enumerate(function.out_avals) if is_float(out)]
    return [
        i
        for i, var in zip(float_results, pushed.outvars, strict=True)
        if isinstance(var, core.Var) and var in reached
    ]


def _pushed(
    function: core.ClosedJaxpr, primals: Sequence, moving: Sequence[int], tangents: Sequence
) -> tuple[list, list]:
    """The results of a function, and their tangents when the operands `moving` have some."""
    if not moving:
        results = jaxpr_as_fun(function)(*primals)
        return results, list(map(jnp.zeros_like, results))
    return push(jaxpr_as_fun(function), primals, dict(zip(moving, tangents, strict=True)))


def tangent_of(aval) -> jax.ShapeDtypeStruct:
    """The shape of a leaf's tangent."""
    return jax.ShapeDtypeStruct(aval.shape, aval.dtype)
