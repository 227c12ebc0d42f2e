"""The signature of a metagradient: the trees of its arguments and results, and the way to flat lists of arrays."""

from __future__ import annotations

import dataclasses

import jax

from metagrad.api.results import Result, ResultWithAux
from metagrad.frontend.pytrees import Tree, float0


@dataclasses.dataclass(frozen=True)
class Signature:
    """The trees of a metagradient's arguments and results, and the way between them and flat lists."""

    state: Tree
    meta: Tree
    batches: Tree
    outer: Tree
    aux: Tree
    outer_aux: Tree
    wrt: tuple[str, ...]
    single: bool
    step_has_aux: bool
    has_aux: bool

    @property
    def inputs(self) -> list[jax.ShapeDtypeStruct]:
        return [
            leaf.stored
            for tree in (self.state, self.meta, self.batches, self.outer)
            for leaf in tree.leaves
        ]

    def flatten(self, state0, meta, batches, outer_args) -> list:
        pairs = (
            (self.state, state0),
            (self.meta, meta),
            (self.batches, batches),
            (self.outer, outer_args),
        )
        return [array for tree, value in pairs for array in tree.flatten(value)]

    def gradient_leaves(self):
        """(group, leaf) for each float leaf of the gradient, in the order of the program's results."""
        trees = {"state": self.state, "meta": self.meta, "batches": self.batches}
        return [
            (name, leaf)
            for name, tree in trees.items()
            if name in self.wrt
            for leaf in tree.leaves
            if leaf.is_float
        ]

    def outputs(self, value: jax.ShapeDtypeStruct, steps: int) -> list[jax.ShapeDtypeStruct]:
        stacked = [
            jax.ShapeDtypeStruct((steps, *leaf.stored.shape), leaf.stored.dtype)
            for leaf in self.aux.leaves
        ]
        return [
            value,
            *(leaf.stored for leaf in self.outer_aux.leaves),
            *(leaf.stored for _, leaf in self.gradient_leaves()),
            *(leaf.stored for leaf in self.state.leaves),
            *stacked,
        ]

    def unflatten(self, results: list):
        results = iter(results)
        take = lambda count: [next(results) for _ in range(count)]
        value = next(results)
        outer_aux = take(len(self.outer_aux.leaves))
        gradients = {}
        trees = {"state": self.state, "meta": self.meta, "batches": self.batches}
        for name, tree in trees.items():
            if name in self.wrt:
                gradients[name] = tree.rebuild(
                    [next(results) if leaf.is_float else float0(leaf) for leaf in tree.leaves]
                )
        state = self.state.unflatten(take(len(self.state.leaves)))
        aux = take(len(self.aux.leaves))
        grad = (
            gradients[self.wrt[0]] if self.single else tuple(gradients[name] for name in self.wrt)
        )
        if self.has_aux:
            value = value, self.outer_aux.unflatten(outer_aux)
        if self.step_has_aux:
            return ResultWithAux(value, grad, state, self.aux.unflatten(aux))
        return Result(value, grad, state)
