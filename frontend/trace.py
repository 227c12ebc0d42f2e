"""Traces the user's step and outer function to jaxprs over flat leaves.

Refuses what cannot be a training step.

Every error names the user's argument and the leaf's path, and says what to do.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core, source_info_util
from jax.sharding import PartitionSpec as P

from metagrad.frontend import batch_lists, call_notes, leaked_values, named_axes, prints
from metagrad.frontend.check_state import check_state
from metagrad.frontend.grad_primitive import TRACING
from metagrad.frontend.jaxprs.auto_axes import with_auto_axes
from metagrad.frontend.pytrees import Tree, describe, shaped, tree_of

# A message about an equation names the user's line, not one of ours.
source_info_util.register_exclusion(os.path.dirname(__file__) + os.sep)


@dataclasses.dataclass(frozen=True)
class TracedStep:
    """The step over flat leaves: (state, meta, batch) -> (state', aux).

    Attributes:
      jaxpr: the step without its prints, inner gradients still in it as `metagrad_grad`.
      printing: whether it is known to print.
      prints: traces what the plain step prints, as a function of the same operands without results;
        None if it prints nothing.
      state: the state's description; where Python scalars were given, with the dtypes that the step
        settles on.
      final: the description of what the step returns. It differs from `state` only in which types
        are weak.
      aux: the description of the auxiliary output (no leaves without `has_aux`).
    """

    jaxpr: core.ClosedJaxpr
    printing: bool
    prints: Callable[[], core.ClosedJaxpr | None]
    state: Tree
    final: Tree
    aux: Tree


def trace_step(
    step: Callable,
    state: Tree,
    meta: Tree,
    batch: Tree,
    has_aux: bool,
    note: Callable[[], str] = lambda: "",
) -> TracedStep:
    """Traces the step and checks that it returns a state like the one it was given.

    Args:
      note: what is added to an error from inside the step, and to one about the state that it
        returns.

    Raises:
      TypeError: the new state differs from the state in structure, shape or dtype, or the step has
        side effects.
      ValueError: `has_aux` was given and the step does not return a pair.
    """
    with call_notes.noting(note):
        jaxpr, out, aux = _trace_step(step, state, meta, batch, has_aux)
        settled = _settle(state, out)
        if settled is not state:
            state = settled
            jaxpr, out, aux = _trace_step(step, state, meta, batch, has_aux)
        check_state(state, out)

    def printed():
        return _prints(_trace_step(step, state, meta, batch, has_aux, compiling=False)[0], STEP)

    return TracedStep(_silent(jaxpr, STEP), prints.prints(jaxpr), printed, state, out, aux)


STEP = "the training step"


def _trace_step(step, state, meta, batch, has_aux, compiling=True):
    described = {}

    # Under the step's own name and with its arguments' names, which JAX's errors speak of.
    @functools.wraps(step)
    def flat(*trees):
        result = step(*(tree.rebuild(arrays) for tree, arrays in zip((state, meta, batch), trees)))
        if has_aux and not (isinstance(result, tuple) and len(result) == 2):
            raise ValueError(
                "the step was decorated with has_aux=True, so it must return (new_state, aux); "
                f"it returned {_kind(result)}"
            )
        new_state, aux = result if has_aux else (result, ())
        described["state"], described["aux"] = tree_of("state", new_state), tree_of("aux", aux)
        return described["state"].arrays(new_state) + described["aux"].arrays(aux)

    with TRACING(compiling), named_axes.tracing(STEP):
        jaxpr = jax.make_jaxpr(flat)(
            *([leaf.aval for leaf in tree.leaves] for tree in (state, meta, batch))
        )
    return with_auto_axes(jaxpr), described["state"], described["aux"]


def _settle(state: Tree, out: Tree) -> Tree:
    """The state with settled dtypes, as `lax.scan` settles those of its carry.

    A leaf of a weak type (a Python scalar) takes the dtype that the step gives it. Where the step
    gives it the dtype that it has, it is traced with its weak type.
    """
    if state.structure != out.structure or len(state.leaves) != len(out.leaves):
        return state
    leaves = []
    for leaf, new in zip(state.leaves, out.leaves):
        if (
            getattr(leaf.aval, "weak_type", False)
            and leaf.aval.shape == new.aval.shape
            and leaf.aval.dtype != new.aval.dtype
            and not new.is_key
        ):
            dtype = jnp.result_type(_promoted_as(leaf.aval), _promoted_as(new.aval))
            aval = jax.ShapeDtypeStruct(leaf.aval.shape, dtype)
            leaves.append(dataclasses.replace(leaf, aval=aval, stored=aval))
        else:
            leaves.append(leaf)
    return (
        state if tuple(leaves) == state.leaves else dataclasses.replace(state, leaves=tuple(leaves))
    )


_PYTHON_NUMBERS = {"b": False, "i": 0, "f": 0.0, "c": 0j}


def _promoted_as(aval: Any) -> Any:
    """What stands for a type where dtypes are promoted.

    `jnp.result_type` forgets that a type is weak, but of arrays and of Python's numbers.
    """
    return _PYTHON_NUMBERS[aval.dtype.kind] if aval.weak_type else aval.dtype


@dataclasses.dataclass(frozen=True)
class TracedOuter:
    """The outer function over flat leaves: (state, outer arguments) -> (value, aux).

    `printing` and `prints` are those of `TracedStep`.
    """

    jaxpr: core.ClosedJaxpr
    printing: bool
    prints: Callable[[], core.ClosedJaxpr | None]
    aux: Tree


def trace_outer(outer: Callable, state: Tree, arguments: Tree, has_aux: bool) -> TracedOuter:
    """Traces the outer function and checks that it gives a real scalar, or a vector of queries.

    Raises:
      TypeError: the value is neither, or the function has side effects.
      ValueError: the vector is empty, or `has_aux` was given and the function returns no pair.
    """
    described = {}
    name = getattr(outer, "__name__", "outer")

    @functools.wraps(outer)
    def flat(final, *outer_args):
        result = outer(state.rebuild(final), *arguments.rebuild(jax.tree.leaves(outer_args)))
        if has_aux and not (isinstance(result, tuple) and len(result) == 2):
            raise ValueError(
                f"metagradient(has_aux=True): `{name}` must return (value, aux); it returned "
                f"{_kind(result)}"
            )
        value, aux = result if has_aux else (result, ())
        _check_value(name, value)
        described["aux"] = tree_of("aux", aux)
        return [value] + described["aux"].arrays(aux)

    what = f"the outer function `{name}`"

    def trace(compiling: bool):
        with TRACING(compiling), named_axes.tracing(what):
            final, outer_args = ([leaf.aval for leaf in tree.leaves] for tree in (state, arguments))
            return with_auto_axes(jax.make_jaxpr(flat)(final, *outer_args))

    with call_notes.noting(lambda: call_notes.of_outer(state, arguments)):
        jaxpr = trace(True)
    return TracedOuter(
        _silent(jaxpr, what),
        prints.prints(jaxpr),
        lambda: _prints(trace(False), what),
        described["aux"],
    )


def _check_value(name: str, value: Any) -> None:
    """Raises TypeError or ValueError where the outer value is not what can be differentiated."""
    leaf = describe(f"what the outer function `{name}` returns", value)
    if leaf is None or len(leaf.aval.shape) > 1 or not leaf.is_float:
        raise TypeError(
            f"the outer function `{name}` must return one floating-point scalar to be "
            "differentiated, or a vector of them (one for each query); it returned "
            f"{_kind(value) if leaf is None else shaped(leaf.aval)}. "
            "Reduce it (jnp.mean, jnp.sum; jnp.ravel makes a vector of it), and return what you "
            "want to look at as aux (has_aux=True)."
        )
    if leaf.aval.shape == (0,):
        raise ValueError(
            f"the outer function `{name}` returned a vector of length 0: there is no query to "
            "differentiate. Return at least one, or a scalar."
        )


def batches_tree(batches: Any) -> tuple[Tree, Tree, int]:
    """Describes `batches`, one batch of it, and gives T.

    Raises:
      ValueError: no array leaf, a leaf without a leading axis, unequal leading axes, or T = 0; or
        batches one by one (batch_lists.py).
    """
    batch_lists.check(batches)
    tree = tree_of("batches", batches)
    if not tree.leaves:
        raise ValueError(
            f"batches is {_kind(batches)} without an array leaf, so the number of training steps "
            "is unknown. A dataset goes into metagrad.Stream(dataset, order); of a loader or a "
            "generator, give the dataset behind it. Else give a pytree of arrays with a leading "
            "axis of length T; if the step needs no data, batches=jnp.arange(T) says how many "
            "steps to run."
        )
    scalars = [leaf.path for leaf in tree.leaves if not leaf.aval.shape]
    if scalars:
        raise ValueError(
            "every leaf of batches needs a leading axis of length T, "
            f"and {', '.join(scalars)} is a scalar"
        )
    lengths = {leaf.path: leaf.aval.shape[0] for leaf in tree.leaves}
    if len(set(lengths.values())) > 1:
        listed = "\n".join(f"  {path}: {length}" for path, length in lengths.items())
        raise ValueError(
            "the leaves of batches must have equal leading axes (one entry for each training "
            f"step), but they are\n{listed}"
        )
    steps = next(iter(lengths.values()))
    if steps == 0:
        raise ValueError(
            f"{tree.leaves[0].path} has a leading axis of length 0: there is no training step to "
            "differentiate through. Give at least one batch."
        )
    leaves = tuple(_one(leaf) for leaf in tree.leaves)
    return tree, dataclasses.replace(tree, name="batch", leaves=leaves), steps


def _one(leaf):
    sharding = leaf.aval.sharding
    return dataclasses.replace(
        leaf,
        path=leaf.path.replace("batches", "batch", 1),
        aval=jax.ShapeDtypeStruct(
            leaf.aval.shape[1:],
            leaf.aval.dtype,
            weak_type=getattr(leaf.aval, "weak_type", False),
            sharding=None if sharding is None else sharding.update(spec=P(*sharding.spec[1:])),
        ),
        stored=jax.ShapeDtypeStruct(leaf.stored.shape[1:], leaf.stored.dtype),
    )


def _silent(jaxpr: core.ClosedJaxpr, what: str) -> core.ClosedJaxpr:
    leaked_values.check(jaxpr)
    named_axes.check(jaxpr, what)
    prints.check_effects(jaxpr, what)
    return prints.silence(jaxpr)


def _prints(jaxpr: core.ClosedJaxpr, what: str) -> core.ClosedJaxpr | None:
    # A backward rule shows its effects only here.
    prints.check_effects(jaxpr, what)
    return prints.only(jaxpr)


def _kind(value: Any) -> str:
    if value is None:
        return "None"
    if (leaf := describe("", value)) is not None:
        return shaped(leaf.aval)
    return f"a {type(value).__name__}" + (
        f" of length {len(value)}" if isinstance(value, tuple) else ""
    )
