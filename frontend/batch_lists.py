"""Batches given one by one, in a list, where stacked batches are meant.

A pytree of stacked arrays may be a list or a tuple itself: `(inputs, targets)`. So what is refused
is a list or tuple at the top whose entries are alike (equal structures, shapes and dtypes): a list
of two or more, and a tuple of more than eight. A shorter tuple is taken for the parts of a batch;
if the step then fails, the error says how else it could have been meant.
"""

from __future__ import annotations

from typing import Any

import jax

from metagrad.frontend.pytrees import Leaf, describe, shaped

_LONGEST_TUPLE = 8
_STACK = "jax.tree.map(lambda *rows: jnp.stack(rows), *batches)"


def check(batches: Any) -> None:
    """Refuses what looks like a sequence of batches.

    Raises:
      ValueError: it does; the message says how to stack them.
    """
    if type(batches) not in (list, tuple) or len(batches) < 2:
        return
    kind = type(batches).__name__
    entries = [_leaves(entry) for entry in batches]
    if len(batches) <= _LONGEST_TUPLE and kind == "tuple":
        return
    if _alike(batches, entries):
        raise ValueError(
            f"batches is a {kind} of {len(batches)} entries that are alike (each "
            f"{_text(entries[0])}), as if they were the batches one by one. batches is one pytree "
            "of arrays whose leading axis counts the steps. If each entry is the batch of one "
            f"step, stack them: batches = {_STACK}. If they are the parts of a batch, with a "
            f"leading axis of length T each, give {_other_containers(batches)} in its place."
        )
    if kind == "list" and _alike(batches, [[_Row(leaf) for leaf in entry] for entry in entries]):
        raise ValueError(
            f"batches is a list of {len(batches)} batches of different sizes. batches is one "
            "pytree of arrays whose leading axis counts the steps, so all steps have batches of "
            f"one size. Drop or pad the smaller ones, and stack them: batches = {_STACK}."
        )


def hint(batches: Any) -> str:
    """What to say to a user whose step failed, if `batches` may be a sequence of batches."""
    if type(batches) not in (list, tuple) or not batches:
        return ""
    if not _alike(batches, [_leaves(entry) for entry in batches]):
        return ""
    entries = "one entry" if len(batches) == 1 else f"{len(batches)} entries that are alike"
    return (
        f"batches is a {type(batches).__name__} of {entries}. If each entry is the batch of one "
        f"step, stack them: batches = {_STACK}."
    )


def _other_containers(batches: Any) -> str:
    return f"{'a tuple, ' if len(batches) <= _LONGEST_TUPLE else ''}a dict or a NamedTuple"


class _Row:
    """A leaf without its leading axis, to compare."""

    def __init__(self, leaf: Leaf):
        self.aval = jax.ShapeDtypeStruct(leaf.aval.shape[1:], leaf.aval.dtype)
        self.rank = len(leaf.aval.shape)


def _leaves(entry: Any) -> list[Leaf]:
    described = (describe("batches", leaf) for leaf in jax.tree.leaves(entry))
    return [leaf for leaf in described if leaf is not None]


def _alike(batches: Any, entries: list[list]) -> bool:
    """Whether all entries have equal structures, shapes and dtypes, and arrays at all."""
    structures: list[Any] = [jax.tree.structure(entry) for entry in batches]
    shapes = [
        [(getattr(leaf, "rank", None), leaf.aval.shape, leaf.aval.dtype) for leaf in entry]
        for entry in entries
    ]
    return bool(entries[0]) and all(
        structure == structures[0] and shape == shapes[0]
        for structure, shape in zip(structures, shapes)
    )


def _text(entry: list[Leaf]) -> str:
    more = f" and {len(entry) - 3} more arrays" if len(entry) > 3 else ""
    return ", ".join(shaped(leaf.aval) for leaf in entry[:3]) + more
