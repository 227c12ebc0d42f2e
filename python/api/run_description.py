"""What the manifest of an exported run says of it, besides its programs: written and read."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax

from metagrad.api import stored_trees
from metagrad.api.signature import Signature
from metagrad.api.stored_trees import StoredTree
from metagrad.frontend.pytrees import Tree
from metagrad.runtime.executors.fused import Gradients
from metagrad.runtime.exported.fields import Fields

_ARGUMENTS = ("state", "meta", "batches", "outer")


@dataclasses.dataclass(frozen=True)
class RunDescription:
    """An exported run, without its programs and arrays.

    Attributes:
      arguments: the trees of state, meta, batches and the outer function's arguments.
      aux, outer_aux: the trees of the auxiliary outputs.
      wrt, single, step_has_aux, has_aux: as in `Signature`.
      x64: whether it was lowered with double precision on.
      names: what its author called the step and the outer function.
      written_by: versions of what wrote it, by name.
      steps: T of the batches.
      notes: what it leaves out, if it is an approximation, and why its mode was chosen, in words.
    """

    arguments: tuple[StoredTree, StoredTree, StoredTree, StoredTree]
    aux: Tree
    outer_aux: Tree
    wrt: tuple[str, ...]
    single: bool
    step_has_aux: bool
    has_aux: bool
    x64: bool
    names: tuple[str, str]
    written_by: Mapping[str, str]
    steps: int
    notes: tuple[str, ...] = ()

    def signature(self, trees: tuple) -> Signature:
        """The signature of a call with (state0, meta, batches, outer_args).

        Raises:
          TypeError: a tree has other leaves; the message names the first.
        """
        return self._signature(*(stored.tree(x) for stored, x in zip(self.arguments, trees)))

    def _signature(self, state: Tree, meta: Tree, batches: Tree, outer: Tree) -> Signature:
        return Signature(
            state,
            meta,
            batches,
            outer,
            self.aux,
            self.outer_aux,
            self.wrt,
            self.single,
            self.step_has_aux,
            self.has_aux,
        )

    @property
    def inputs(self) -> list[jax.ShapeDtypeStruct]:
        """Of the program, without captured arrays."""
        return [leaf.stored for tree in self.arguments for leaf in tree.leaves]

    @functools.cached_property
    def own_signature(self) -> Signature:
        """With lists of leaves in place of the structures of a caller."""
        trees = [
            Tree(
                tree.name,
                tree.leaves,
                (),
                len(tree.leaves) * (True,),
                jax.tree.structure([0] * len(tree.leaves)),
            )
            for tree in self.arguments
        ]
        return self._signature(*trees)

    def outputs(self, value: jax.ShapeDtypeStruct) -> list[jax.ShapeDtypeStruct]:
        """Of the program, whose first result is `value`."""
        return self.own_signature.outputs(value, self.steps)

    def gradients(self, captured: int) -> Gradients:
        """As `Signature.gradients`."""
        return self.own_signature.gradients(captured)

    def check(self) -> None:
        """Raises ValueError if its parts do not belong together."""
        for leaf in self.arguments[2].leaves:
            if leaf.aval.shape[:1] != (self.steps,):
                raise ValueError(
                    f"{leaf.path} has shape {leaf.aval.shape}, and the plan {self.steps} steps"
                )
        if not self.wrt or {*self.wrt} - {"state", "meta", "batches"}:
            raise ValueError(f"the gradient is with respect to {self.wrt}")
        if self.single and len(self.wrt) != 1:
            raise ValueError("one gradient is announced, and there are several")


def to_json(
    signature: Signature,
    x64: bool,
    names: tuple[str, str],
    written_by: Mapping[str, str],
) -> dict[str, Any]:
    """The manifest's entries.

    Raises:
      TypeError: an auxiliary output cannot be stored.
    """
    return {
        "written_by": dict(written_by),
        "names": list(names),
        "x64": x64,
        "wrt": list(signature.wrt),
        "single": signature.single,
        "step_has_aux": signature.step_has_aux,
        "has_aux": signature.has_aux,
        "arguments": {name: stored_trees.to_json(getattr(signature, name)) for name in _ARGUMENTS},
        "aux": stored_trees.structure_to_json(signature.aux),
        "outer_aux": stored_trees.structure_to_json(signature.outer_aux),
    }


def from_json(fields: Fields, steps: int) -> RunDescription:
    """What `to_json` made.

    Args:
      steps: T of the batches.

    Raises:
      ValueError: it is not as it must be; the message names the field.
    """
    names = fields.texts("names")
    if len(names) != 2:
        raise ValueError(f"{fields.place}.names are not two")
    written_by = fields.object("written_by")
    if not all(map(str.isidentifier, written_by)):
        raise ValueError(f"{written_by.place} has names that are none")
    arguments = fields.object("arguments")
    state, meta, batches, outer = (
        stored_trees.from_json("outer_args" if name == "outer" else name, arguments.object(name))
        for name in _ARGUMENTS
    )
    description = RunDescription(
        (state, meta, batches, outer),
        stored_trees.structure_from_json("aux", fields.object("aux")),
        stored_trees.structure_from_json("aux", fields.object("outer_aux")),
        fields.texts("wrt"),
        fields.flag("single"),
        fields.flag("step_has_aux"),
        fields.flag("has_aux"),
        fields.flag("x64"),
        (names[0], names[1]),
        {name: written_by.text(name) for name in written_by},
        steps,
        fields.texts("notes") if "notes" in fields else (),
    )
    description.check()
    return description
