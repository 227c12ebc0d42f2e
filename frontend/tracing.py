"""Traces the user's step and outer function to jaxprs over flat leaves, and refuses what cannot be a training step.

Every error names the user's argument and the leaf's path, and says what to do.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax._src import core

from metagrad.frontend.gradient import TRACING
from metagrad.frontend.leaves import Tree, shaped, tree_of


@dataclasses.dataclass(frozen=True)
class TracedStep:
    """The step over flat leaves: (state, meta, batch) -> (state', aux).

    Attributes:
      jaxpr: the step, inner gradients still in it as `metagrad_grad`.
      state: the state's description; where Python scalars were given, with the dtypes that the step settles on.
      aux: the description of the auxiliary output (no leaves without `has_aux`).
    """

    jaxpr: core.ClosedJaxpr
    state: Tree
    aux: Tree


def trace_step(step: Callable, state: Tree, meta: Tree, batch: Tree, has_aux: bool) -> TracedStep:
    """Traces the step and checks that it returns a state like the one it was given.

    Raises:
      TypeError: the new state differs from the state in structure, shape or dtype, or the step has side effects.
      ValueError: `has_aux` was given and the step does not return a pair.
    """
    jaxpr, out, aux = _trace_step(step, state, meta, batch, has_aux)
    settled = _settle(state, out)
    if settled is not state:
        state = settled
        jaxpr, out, aux = _trace_step(step, state, meta, batch, has_aux)
    _check_state(state, out)
    _check_effects(jaxpr, "the training step")
    return TracedStep(jaxpr, state, aux)


def _trace_step(step, state, meta, batch, has_aux):
    described = {}

    def flat(*arrays):
        first, second = len(state.leaves), len(state.leaves) + len(meta.leaves)
        result = step(state.rebuild(arrays[:first]), meta.rebuild(arrays[first:second]), batch.rebuild(arrays[second:]))
        if has_aux and not (isinstance(result, tuple) and len(result) == 2):
            raise ValueError(
                "the step was decorated with has_aux=True, so it must return (new_state, aux); "
                f"it returned {_kind(result)}"
            )
        new_state, aux = result if has_aux else (result, ())
        described["state"], described["aux"] = tree_of("state", new_state), tree_of("aux", aux)
        return described["state"].arrays(new_state) + described["aux"].arrays(aux)

    with TRACING(True):
        avals = [leaf.aval for tree in (state, meta, batch) for leaf in tree.leaves]
        jaxpr = jax.make_jaxpr(flat)(*avals)
    return jaxpr, described["state"], described["aux"]


def _settle(state: Tree, out: Tree) -> Tree:
    """Python scalars in the state are weakly typed: they take the dtype that the step gives them, as in `lax.scan`."""
    if state.structure != out.structure or len(state.leaves) != len(out.leaves):
        return state
    leaves = []
    for leaf, new in zip(state.leaves, out.leaves):
        if getattr(leaf.aval, "weak_type", False) and leaf.aval.shape == new.aval.shape:
            aval = jax.ShapeDtypeStruct(leaf.aval.shape, new.aval.dtype)
            leaves.append(dataclasses.replace(leaf, aval=aval, stored=aval))
        else:
            leaves.append(leaf)
    return state if tuple(leaves) == state.leaves else dataclasses.replace(state, leaves=tuple(leaves))


def _check_state(state: Tree, out: Tree) -> None:
    if state.structure != out.structure:
        old, new = state.rebuild([0] * len(state.leaves)), out.rebuild([0] * len(out.leaves))
        differences = "\n".join(
            f"  state{jax.tree_util.keystr(path)}: {was} in the state that was given, {now} in the state that the step returns ({why})"
            for path, was, now, why in jax.tree_util.equality_errors(old, new)
        )
        raise TypeError(
            f"the step must return a state with the structure of its argument `state`, but it differs:\n{differences}\n"
            "Return the same pytree with new leaves; put what is new in each step in the aux output (has_aux=True)."
        )
    if state.is_array != out.is_array:
        raise TypeError("the step turned an array of the state into a value that is no array, or the other way round")
    if not all(was is now or was == now for was, now in zip(state.constants, out.constants)):
        raise TypeError(
            f"the step changed a leaf of the state that is no array: {state.constants} became {out.constants}. "
            "Such leaves are constants of the compilation; hold what changes as an array."
        )
    changed = [
        f"  {leaf.path}: {shaped(leaf.aval)} came in, {shaped(new.aval)} went out"
        for leaf, new in zip(state.leaves, out.leaves)
        if (leaf.aval.shape, leaf.aval.dtype) != (new.aval.shape, new.aval.dtype)
    ]
    if changed:
        raise TypeError(
            "the step must not change the shape or dtype of a leaf of the state:\n" + "\n".join(changed) + "\n"
            "Cast the new leaf back (new.astype(old.dtype)), or give the initial state the dtype that the step computes in."
        )


@dataclasses.dataclass(frozen=True)
class TracedOuter:
    """The outer function over flat leaves: (state, outer arguments) -> (value, aux)."""

    jaxpr: core.ClosedJaxpr
    aux: Tree


def trace_outer(outer: Callable, state: Tree, arguments: Tree, has_aux: bool) -> TracedOuter:
    """Traces the outer function and checks that it gives a real scalar.

    Raises:
      TypeError: the value is not a real floating-point scalar, or the function has side effects.
    """
    described = {}
    name = getattr(outer, "__name__", "outer")

    def flat(*arrays):
        split = len(state.leaves)
        result = outer(state.rebuild(arrays[:split]), *arguments.rebuild(arrays[split:]))
        if has_aux and not (isinstance(result, tuple) and len(result) == 2):
            raise ValueError(f"metagradient(has_aux=True): `{name}` must return (value, aux); it returned {_kind(result)}")
        value, aux = result if has_aux else (result, ())
        leaves = tree_of("value", value)
        if len(leaves.leaves) != 1 or leaves.constants or leaves.leaves[0].aval.shape or not leaves.leaves[0].is_float:
            what = ", ".join(f"{leaf.path.removeprefix('value') or 'result'} {shaped(leaf.aval)}" for leaf in leaves.leaves) or _kind(value)
            raise TypeError(
                f"the outer function `{name}` must return one floating-point scalar to be differentiated; it returned {what}. "
                "Reduce it (jnp.mean, jnp.sum), and return what you want to look at as aux (has_aux=True)."
            )
        described["aux"] = tree_of("aux", aux)
        return leaves.arrays(value) + described["aux"].arrays(aux)

    with TRACING(True):
        avals = [leaf.aval for tree in (state, arguments) for leaf in tree.leaves]
        jaxpr = jax.make_jaxpr(flat)(*avals)
    _check_effects(jaxpr, f"the outer function `{name}`")
    return TracedOuter(jaxpr, described["aux"])


def batches_tree(batches: Any) -> tuple[Tree, Tree, int]:
    """Describes `batches`, one batch of it, and gives T.

    Raises:
      ValueError: no array leaf, a leaf without a leading axis, unequal leading axes, or T = 0.
    """
    tree = tree_of("batches", batches)
    if not tree.leaves:
        raise ValueError(
            "batches has no array leaf, so the number of training steps is unknown. Give a pytree of arrays with a leading axis of length T; "
            "if the step needs no data, batches=jnp.arange(T) says how many steps to run."
        )
    scalars = [leaf.path for leaf in tree.leaves if not leaf.aval.shape]
    if scalars:
        raise ValueError(f"every leaf of batches needs a leading axis of length T, and {', '.join(scalars)} is a scalar")
    lengths = {leaf.path: leaf.aval.shape[0] for leaf in tree.leaves}
    if len(set(lengths.values())) > 1:
        listed = "\n".join(f"  {path}: {length}" for path, length in lengths.items())
        raise ValueError(f"the leaves of batches must have equal leading axes (one entry for each training step), but they are\n{listed}")
    steps = next(iter(lengths.values()))
    if steps == 0:
        raise ValueError("batches has a leading axis of length 0: there is no training step to differentiate through")
    leaves = tuple(_one(leaf) for leaf in tree.leaves)
    return tree, dataclasses.replace(tree, name="batch", leaves=leaves), steps


def _one(leaf):
    return dataclasses.replace(
        leaf,
        path=leaf.path.replace("batches", "batch", 1),
        aval=jax.ShapeDtypeStruct(leaf.aval.shape[1:], leaf.aval.dtype),
        stored=jax.ShapeDtypeStruct(leaf.stored.shape[1:], leaf.stored.dtype),
    )


def _check_effects(jaxpr: core.ClosedJaxpr, what: str) -> None:
    if jaxpr.effects:
        listed = ", ".join(sorted(str(effect) for effect in jaxpr.effects))
        raise TypeError(
            f"{what} has side effects ({listed}), from jax.debug.print, io_callback or the like. A metagradient runs steps several times "
            "and in another order, so they are refused; return what you want to see as aux instead (has_aux=True)."
        )


def _kind(value: Any) -> str:
    return f"a {type(value).__name__}" + (f" of length {len(value)}" if isinstance(value, tuple) else "")
