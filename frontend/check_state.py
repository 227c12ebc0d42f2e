"""The new state of a step against its old one: the same structure, shapes, dtypes and constants."""

from __future__ import annotations

from typing import Any

import jax

from metagrad.frontend.pytrees import Leaf, Tree, shaped
from metagrad.runtime import jax_internals


def check_state(state: Tree, out: Tree) -> None:
    """Refuses a step whose new state does not fit the old one.

    Args:
      state: the state that the step was given.
      out: the state that it returned.

    Raises:
      TypeError: they differ in structure, in the shape or dtype of a leaf, or in a leaf that is a
        constant of the compilation.
    """
    if state.structure != out.structure:
        raise TypeError(_structure_message(state, out))
    old, new = _by_path(state), _by_path(out)
    swapped = [
        f"  {path}: {_leaf(old[path])} came in, {_leaf(new[path])} went out"
        for path in old
        if isinstance(old[path], Leaf) != isinstance(new[path], Leaf)
    ]
    if swapped:
        raise TypeError(
            "the step must return arrays where the state has arrays, and the same constants where "
            "it has others:\n" + "\n".join(swapped) + "\nHold what the step computes as an array."
        )
    replaced = [
        f"  {path}: {old[path]!r} came in, {new[path]!r} went out"
        for path in old
        if not isinstance(old[path], Leaf)
        and not (old[path] is new[path] or old[path] == new[path])
    ]
    if replaced:
        raise TypeError(
            "the step changed leaves of the state that are not arrays:\n"
            + "\n".join(replaced)
            + "\nSuch leaves are constants of the compilation; hold what changes as an array."
        )
    changed = [
        (leaf, new)
        for leaf, new in zip(state.leaves, out.leaves)
        if (leaf.aval.shape, leaf.aval.dtype) != (new.aval.shape, new.aval.dtype)
    ]
    if changed:
        listed = "\n".join(
            f"  {leaf.path}: {shaped(leaf.aval)} came in, {shaped(new.aval)} went out"
            for leaf, new in changed
        )
        hints = []
        if any(leaf.is_key or new.is_key for leaf, new in changed):
            hints.append("A key stays a key of its kind, as jax.random.split and fold_in give it.")
        others = [(leaf.aval, new.aval) for leaf, new in changed if not (leaf.is_key or new.is_key)]
        if any(old.shape != new.shape for old, new in others):
            hints.append(
                "Return the new leaf in the shape of the old one; what grows from step to step "
                "belongs in the aux output (has_aux=True), which is stacked."
            )
        if any(old.dtype != new.dtype for old, new in others):
            hints.append(
                "Cast the new leaf back (new.astype(old.dtype)), or give the initial state the "
                "dtype that the step computes in."
            )
        raise TypeError(
            f"the step must not change the shape or dtype of a leaf of the state:\n{listed}\n"
            + "\n".join(hints)
        )


def _structure_message(state: Tree, out: Tree) -> str:
    """Says which subtree differs and how.

    Advises has_aux=True if something was returned beside the state.
    """
    children = jax.tree_util.treedef_children(out.structure)
    if (
        out.structure.node_data() is not None
        and out.structure.node_data()[0] is tuple
        and children
        and children[0] == state.structure
    ):
        return (
            "the step must return a state with the structure of its argument `state`; it returned "
            f"a tuple of {len(children)}, of which the first is such a state. "
            "If the rest is auxiliary, decorate the step with @metagrad.compile(has_aux=True) and "
            "return (new_state, aux)."
        )
    old, new = state.rebuild(list(state.leaves)), out.rebuild(list(out.leaves))
    differences = "\n".join(
        f"  state{jax.tree_util.keystr(path)}: {was} came in, {now} went out ({why})"
        for path, was, now, why in jax_internals.equality_errors(old, new)
    ).replace(str(Leaf), "an array")
    return (
        "the step must return a state with the structure of its argument `state`, but it differs:\n"
        f"{differences}\n"
        "Return the same pytree with new leaves; put what is new in each step in the aux output "
        "(has_aux=True)."
    )


def _by_path(tree: Tree) -> dict[str, Any]:
    """Path of each leaf -> its description, or the constant that it is."""
    filled = tree.rebuild(list(tree.leaves))
    return {
        tree.name + jax.tree_util.keystr(path): leaf
        for path, leaf in jax.tree_util.tree_flatten_with_path(filled)[0]
    }


def _leaf(leaf: Any) -> str:
    return shaped(leaf.aval) if isinstance(leaf, Leaf) else repr(leaf)
