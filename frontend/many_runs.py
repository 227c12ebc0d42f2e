"""A step and an outer function of several runs side by side: both under `jax.vmap`.

    state, meta, batch      the leaves that differ from run to run have an axis of the runs in front
    outer                   (state, arguments) -> (sum of the values, [values, *aux])

The runs have nothing to do with each other, so the gradient of the sum in the leaves of one run is
that of its value. A leaf that all runs share stays as it is, through all steps if no step makes it
differ; one in which the gradient is taken is given to each run, whose gradient is its own.

Where only arguments of the outer function differ there is one run, and its values are a vector.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core
from jax.extend.core import jaxpr_as_fun

from metagrad.runtime import jax_internals


@dataclasses.dataclass(frozen=True)
class ManyRuns:
    """The functions, over lists of arrays, and which of these differ from run to run.

    Attributes:
      step: (state, meta, batch) -> (state', aux).
      outer: (state, *arguments) -> (value, [values, *aux]); of one run (value, aux), where the
        value is a vector.
      state, meta, batch, arguments: whether each leaf differs.
      aux, outer_aux: the same for the auxiliary results of the step and of the outer function.
    """

    step: Callable
    outer: Callable
    state: tuple[bool, ...]
    meta: tuple[bool, ...]
    batch: tuple[bool, ...]
    arguments: tuple[bool, ...]
    aux: tuple[bool, ...]
    outer_aux: tuple[bool, ...]

    @property
    def is_one_run(self) -> bool:
        """Whether the runs differ in what the outer function takes beside the state alone."""
        return not any((*self.state, *self.meta, *self.batch))


class Printing(NamedTuple):
    """A function over leaves, and what it prints of the same operands; None if nothing."""

    function: core.ClosedJaxpr
    prints: core.ClosedJaxpr | None = None


def many_runs(
    step: Printing,
    outer: Printing,
    runs: int,
    state: Sequence[bool],
    meta: Sequence[bool],
    batch: Sequence[bool],
    arguments: Sequence[bool],
) -> ManyRuns:
    """The functions for several runs.

    Args:
      step: (state, meta, batch) -> (state', aux), over leaves.
      outer: (state, arguments) -> (value, aux), over leaves.
      runs: how many.
      state, meta, batch, arguments: the leaves that differ before the first step.
    """
    state, results = _differing(step.function, runs, state, (*meta, *batch))
    aux = tuple(results[len(state) :])
    one_step = _side_by_side(step, (*state, *meta, *batch), (*state, *aux), runs)
    outer_results = _results(outer.function, (*state, *arguments), runs)[1:]
    measured = _side_by_side(outer, (*state, *arguments), (True, *outer_results), runs)

    def step_of_all(state_leaves, meta_leaves, batch_leaves):
        out = one_step(*state_leaves, *meta_leaves, *batch_leaves)
        return out[: len(state)], out[len(state) :]

    def outer_of_all(state_leaves, *argument_leaves):
        values, *aux = measured(*state_leaves, *argument_leaves)
        if all_of_one.is_one_run:
            return values, aux
        return jnp.sum(values, 0), [values, *aux]

    all_of_one = ManyRuns(
        step_of_all,
        outer_of_all,
        tuple(state),
        tuple(meta),
        tuple(batch),
        tuple(arguments),
        aux,
        tuple(outer_results),
    )
    return all_of_one


def _differing(
    step: core.ClosedJaxpr, runs: int, state: Sequence[bool], others: Sequence[bool]
) -> tuple[list[bool], list[bool]]:
    """The leaves of the state that differ from run to run before some step; and the results."""
    state = list(state)
    while True:
        results = _results(step, (*state, *others), runs)
        grown = [before or after for before, after in zip(state, results)]
        if grown == state:
            return state, results
        state = grown


def _results(function: core.ClosedJaxpr, operands: Sequence[bool], runs: int) -> list[bool]:
    """Which results differ from run to run, for operands that do."""
    differ: list[bool] = []

    def probe(*values):
        results = jaxpr_as_fun(function)(*values)
        differ[:] = map(jax_internals.is_batched, results)
        return results

    if not any(operands):
        return [False] * len(function.out_avals)
    jax.eval_shape(
        jax.vmap(probe, in_axes=_axes(operands), axis_size=runs),
        *(stacked(aval, flag, runs) for aval, flag in zip(function.in_avals, operands)),
    )
    return differ


def _side_by_side(
    of_one: Printing, operands: Sequence[bool], results: Sequence[bool], runs: int
) -> Callable:
    def one(*values):
        if of_one.prints is not None:
            jaxpr_as_fun(of_one.prints)(*values)
        return jaxpr_as_fun(of_one.function)(*values)

    if not any((*operands, *results)):
        return one
    return jax.vmap(one, in_axes=_axes(operands), out_axes=list(_axes(results)), axis_size=runs)


def _axes(flags: Sequence[bool]) -> tuple[int | None, ...]:
    return tuple(0 if flag else None for flag in flags)


def stacked(aval, is_stacked: bool, runs: int, axis: int = 0) -> jax.ShapeDtypeStruct:
    """The shape of an array, or of one for each run with the runs at an axis."""
    shape = (*aval.shape[:axis], runs, *aval.shape[axis:]) if is_stacked else aval.shape
    return jax.ShapeDtypeStruct(shape, aval.dtype, weak_type=getattr(aval, "weak_type", False))
