"""The signature of a metagradient: how its arguments and results become flat lists of arrays."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Sequence
from typing import Any

import jax

from metagrad.api.results import Result, ResultWithAux
from metagrad.frontend.pytrees import Leaf, Tree, float0
from metagrad.runtime.executors.first_order import CLOSED_OVER
from metagrad.runtime.executors.fused import Gradients


@dataclasses.dataclass(frozen=True)
class Signature:
    """The trees of a metagradient's arguments and results, and the way to and from flat lists.

    Attributes:
      state, meta, batches, outer: the trees of the arguments.
      aux, outer_aux: the trees of the auxiliary outputs of the step and of the outer function.
      wrt: what the gradient is taken with respect to: "state", "meta", "batches".
      single: whether the user named one of these and not a tuple.
      step_has_aux, has_aux: whether the step, and the outer function, have auxiliary outputs.
    """

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
    def arguments(self) -> tuple[Tree, Tree, Tree, Tree]:
        """The trees of all arguments."""
        return self.state, self.meta, self.batches, self.outer

    @functools.cached_property
    def leaves(self) -> tuple[Leaf, ...]:
        """The array leaves of all arguments, in the order of the program's inputs."""
        return tuple(leaf for tree in self.arguments for leaf in tree.leaves)

    @property
    def inputs(self) -> list[jax.ShapeDtypeStruct]:
        return [leaf.stored for leaf in self.leaves]

    @property
    def differentiated(self) -> dict[str, Tree]:
        """The trees that `wrt` names, in the order of the results."""
        trees = {"state": self.state, "meta": self.meta, "batches": self.batches}
        return {name: tree for name, tree in trees.items() if name in self.wrt}

    @property
    def float_leaves(self) -> dict[str, tuple[int, ...]]:
        """The floating-point leaves of the trees that `wrt` names, by index in each."""
        return {
            name: tuple(i for i, leaf in enumerate(tree.leaves) if leaf.is_float)
            for name, tree in self.differentiated.items()
        }

    def gradient_leaves(self):
        """(tree's name, leaf) for each float leaf of the gradient, in the order of the results."""
        trees = {"state": self.state, "meta": self.meta, "batches": self.batches}
        return [
            (name, leaf)
            for name, tree in trees.items()
            if name in self.wrt
            for leaf in tree.leaves
            if leaf.is_float
        ]

    def outputs(self, value: jax.ShapeDtypeStruct, steps: int) -> list[jax.ShapeDtypeStruct]:
        """The results of the program; gradients have the axis of a vector of queries in front."""
        stacked = [
            jax.ShapeDtypeStruct((steps, *leaf.stored.shape), leaf.stored.dtype)
            for leaf in self.aux.leaves
        ]
        return [
            value,
            *(leaf.stored for leaf in self.outer_aux.leaves),
            *(
                jax.ShapeDtypeStruct((*value.shape, *leaf.stored.shape), leaf.stored.dtype)
                for _, leaf in self.gradient_leaves()
            ),
            *(leaf.stored for leaf in self.state.leaves),
            *stacked,
        ]

    def gradients(self, captured: int) -> Gradients:
        """Which result is the gradient in which input, and what users call both.

        Args:
          captured: how many inputs come behind the arguments.
        """
        first = 1 + len(self.outer_aux.leaves)
        differentiated = self.gradient_leaves()
        result_of = {id(leaf): first + i for i, (_, leaf) in enumerate(differentiated)}
        return Gradients(
            {i: result_of[id(leaf)] for i, leaf in enumerate(self.leaves) if id(leaf) in result_of},
            (*(leaf.path for leaf in self.leaves), *captured * [CLOSED_OVER]),
            (
                "value",
                *(f"aux ({leaf.path})" for leaf in self.outer_aux.leaves),
                *(f"gradient in {leaf.path}" for _, leaf in differentiated),
                *(f"final {leaf.path}" for leaf in self.state.leaves),
                *(f"aux ({leaf.path})" for leaf in self.aux.leaves),
            ),
            {first + len(differentiated) + i: i for i in range(len(self.state.leaves))},
        )

    def unflatten(self, results: Sequence) -> Result | ResultWithAux:
        """The program's flat results as the user gets them."""
        remaining = iter(results)
        take = lambda tree: list(itertools.islice(remaining, len(tree.leaves)))
        value: Any = next(remaining)
        outer_aux = take(self.outer_aux)
        gradients = {}
        trees = {"state": self.state, "meta": self.meta, "batches": self.batches}
        for name, tree in trees.items():
            if name in self.wrt:
                gradients[name] = tree.rebuild(
                    [
                        next(remaining) if leaf.is_float else float0(leaf, value.shape)
                        for leaf in tree.leaves
                    ]
                )
        state = self.state.unflatten(take(self.state))
        grad = (
            gradients[self.wrt[0]] if self.single else tuple(gradients[name] for name in self.wrt)
        )
        if self.has_aux:
            value = value, self.outer_aux.unflatten(outer_aux)
        if self.step_has_aux:
            return ResultWithAux(value, grad, state, self.aux.unflatten(take(self.aux)))
        return Result(value, grad, state)
