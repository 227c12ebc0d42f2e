"""The programs that are made of a program: `jax.vmap` and `jax.jvp` of a metagradient.

Each is the metagradient of another step and another outer function, over lists of arrays
(frontend/many_runs.py, frontend/moved_run.py), with the same schedule, lowered like the user's own.
What is here says which of its operands and results are which of the first program's.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Sequence

import jax
from jax.sharding import AxisType

from metagrad.api.own_settings import lowered_with
from metagrad.api.request import Request
from metagrad.api.signature import Signature
from metagrad.api.traced_run import TracedRun
from metagrad.frontend import trace
from metagrad.frontend.captured import Captured
from metagrad.frontend.jaxprs.auto_axes import auto_context
from metagrad.frontend.many_runs import ManyRuns, Printing, many_runs, stacked
from metagrad.frontend.moved_run import MovedRun, moved_run, tangent_of
from metagrad.runtime.executors import derived
from metagrad.runtime.executors.derived import Operand, Source
from metagrad.runtime.executors.fused import FusedProgram, Gradients

GROUPS = ("state", "meta", "batches")

Lower = Callable[[Request, tuple, Captured], FusedProgram]
"""(request, shapes of the arguments, what the functions capture) -> the program."""


@dataclasses.dataclass(frozen=True, eq=False)
class DerivedPrograms:
    """Makes programs of a program (`runtime.executors.derived.Derivations`).

    Attributes:
      request: what the program is of.
      traced: its traced functions.
      captured: the arrays that the functions capture.
      x64: whether it was lowered with double precision on.
      lower: lowers another program like this one.
    """

    request: Request
    traced: TracedRun
    captured: Captured
    x64: bool
    lower: Lower

    def many_runs(self, runs: int, batched: tuple[bool, ...]) -> derived.ManyRuns:
        """See `Derivations.many_runs`."""
        return self._many_runs(runs, batched)

    def with_tangents(self, moving: tuple[int, ...]) -> derived.RunWithTangents:
        """See `Derivations.with_tangents`.

        Raises:
          NotImplementedError: the metagradient is an approximation. It is not the gradient of a
            value, so its tangents are not those of a run.
        """
        if self.request.approximations:
            names = ", ".join(map(str, self.request.approximations))
            raise NotImplementedError(
                f"the tangents of an approximate metagradient ({names}) are asked for (jax.jvp), "
                "and only an exact one has them. Take those of mg.with_approximation(None)."
            )
        return self._with_tangents(moving)

    @functools.cached_property
    def _many_runs(self) -> Callable[..., derived.ManyRuns]:
        return functools.cache(_on_auto_axes(self._make_many_runs))

    @functools.cached_property
    def _with_tangents(self) -> Callable[..., derived.RunWithTangents]:
        return functools.cache(_on_auto_axes(self._make_with_tangents))

    # --- Several runs -----------------------------------------------------------------------------

    def _make_many_runs(self, runs: int, batched: tuple[bool, ...]) -> derived.ManyRuns:
        signature = self._signature
        of_arguments = batched[: len(signature.leaves)]
        if any(batched[len(signature.leaves) :]):
            raise NotImplementedError(
                "jax.vmap maps over a value that the step, a loss or the outer function closes "
                "over. Pass it in meta, the state or the batches, as an argument of the "
                "metagradient."
            )
        flags = dict(zip((*GROUPS, "arguments"), self._by_group(of_arguments)))
        if self._queries or any(flag for name in GROUPS for flag in flags[name]):
            for name, tree in signature.differentiated.items():
                # The gradient of each run is its own.
                flags[name] = [f or leaf.is_float for f, leaf in zip(flags[name], tree.leaves)]
        captured = Captured(self.captured)
        run = many_runs(
            _printing(self.traced.step, captured),
            _printing(self.traced.outer, captured),
            runs,
            flags["state"],
            flags["meta"],
            flags["batches"],
            flags["arguments"],
        )
        axes = [
            *_axes(run.state, 0),
            *_axes(run.meta, 0),
            *_axes(run.batch, 1),
            *_axes(run.arguments, 0),
        ]
        groups = self._by_group(
            [
                stacked(leaf.aval, axis is not None, runs, axis or 0)
                for leaf, axis in zip(signature.leaves, axes, strict=True)
            ]
        )
        program = self._lowered(run.step, run.outer, groups, captured)
        program = dataclasses.replace(program, gradients=self._gradients_of(run, axes))
        axes = [*axes, *(None for _ in batched[len(axes) :])]
        return derived.ManyRuns(
            program, runs, tuple(axes), self._results_of(run), captured.arrays_beside
        )

    def _results_of(self, run: ManyRuns) -> tuple[Source, ...]:
        """Where each result of one run is, and its axis of the runs."""
        signature, indices = self._signature, itertools.count(0 if run.is_one_run else 1)

        def axis_of_gradient(name: str, differs: bool) -> int | None:
            if run.is_one_run:
                return 0
            return (self._queries + (name == "batches")) if differs else None

        flags = {"state": run.state, "meta": run.meta, "batches": run.batch}
        axes = [
            0,
            *_axes(run.outer_aux, 0),
            *(
                axis_of_gradient(name, differs)
                for name, tree in signature.differentiated.items()
                for leaf, differs in zip(tree.leaves, flags[name], strict=True)
                if leaf.is_float
            ),
            *_axes(run.state, 0),
            *_axes(run.aux, 1),
        ]
        return tuple(Source(index, axis) for index, axis in zip(indices, axes))

    def _gradients_of(self, run: ManyRuns, axes: Sequence[int | None]) -> Gradients:
        known = self._gradients
        if run.is_one_run:
            return known
        return Gradients(
            {i: result + 1 for i, result in known.of_input.items()},
            known.inputs,
            ("value", *known.results),
            {result + 1: i for result, i in known.like_input.items()},
            {i: axis for i in known.of_input if (axis := axes[i]) is not None},
        )

    # --- A run with its tangents ------------------------------------------------------------------

    def _make_with_tangents(self, moving: tuple[int, ...]) -> derived.RunWithTangents:
        signature = self._signature
        flags = [i in moving for i in range(len(signature.leaves))]
        state, meta, batch, arguments = (
            [i for i, flag in enumerate(group) if flag] for group in self._by_group(flags)
        )
        if AxisType.Manual in jax.sharding.get_abstract_mesh().axis_types:
            raise NotImplementedError(
                "tangents of a metagradient (jax.jvp, jax.jacfwd, jax.hessian) are asked for "
                "inside jax.shard_map or jax.pmap, where metagrad cannot lower their program yet. "
                "Take them outside: jax.jit divides the work over the devices of its arguments."
            )
        layout = self.traced.layout
        captured = Captured(self.captured)
        run = moved_run(
            captured.lift(self.traced.step.jaxpr),
            captured.lift(self.traced.outer.jaxpr),
            (layout.state, layout.meta, layout.batch),
            state,
            meta,
            batch,
            arguments,
        )
        groups, operands, first = [], [], 0
        for tree, of_tree in zip(
            signature.arguments, (run.state, run.meta, run.batch, run.arguments)
        ):
            avals = [leaf.aval for leaf in tree.leaves]
            groups.append([*avals, *(tangent_of(avals[i]) for i in of_tree)])
            operands += [Operand(first + i) for i in range(len(avals))]
            operands += [Operand(first + i, is_tangent=True) for i in of_tree]
            first += len(avals)
        captured_operands = range(len(signature.leaves), len(self._gradients.inputs))
        program = self._lowered(run.step, run.outer, groups, captured)
        return derived.RunWithTangents(
            program,
            (*operands, *map(Operand, captured_operands)),
            self._tangents_of(run),
            captured.arrays_beside,
        )

    def _tangents_of(self, run: MovedRun) -> tuple[int | None, ...]:
        """The index of each result's tangent."""
        signature = self._signature
        indices = itertools.count(1)
        outer_aux = _indices(len(signature.outer_aux.leaves), run.outer_aux, indices)
        moved = {"state": run.state, "meta": run.meta, "batches": run.batch}
        gradients = []
        for name, tree in signature.differentiated.items():
            gradients += [next(indices) for leaf in tree.leaves if leaf.is_float]
            # The gradient in the directions is the gradient of the run itself, which is known.
            for _ in moved[name]:
                next(indices)
        for _ in signature.state.leaves:
            next(indices)
        state = _indices(len(signature.state.leaves), run.state, indices)
        aux = _indices(len(signature.aux.leaves), run.aux, indices)
        return (0, *outer_aux, *gradients, *state, *aux)

    # --- Both -------------------------------------------------------------------------------------

    @property
    def _signature(self) -> Signature:
        return self.traced.signature

    def _by_group(self, values: Sequence) -> list[list]:
        """One value for each argument leaf, as a list for each argument."""
        remaining = iter(values)
        return [
            list(itertools.islice(remaining, len(tree.leaves)))
            for tree in self._signature.arguments
        ]

    @functools.cached_property
    def _gradients(self) -> Gradients:
        """What the program knows of its derivative."""
        return self._signature.gradients(len(self.captured.avals()))

    @property
    def _queries(self) -> int:
        """How many axes the value has: 1 for a vector of queries."""
        return self.traced.outer.jaxpr.out_avals[0].ndim

    def _lowered(
        self, step: Callable, outer: Callable, groups: Sequence[list], captured: Captured
    ) -> FusedProgram:
        """The program of a step and an outer function over lists of leaves.

        Args:
          groups: shapes of the leaves of state, meta, batches and the outer function's arguments.
        """
        state, meta, batches, arguments = groups
        request = dataclasses.replace(
            self.request,
            step=_named(lambda s, m, batch: step(s, m, list(batch.values())), self.request.step),
            outer=_named(outer, self.request.outer),
            step_has_aux=True,
            has_aux=True,
            single=False,
        )
        # A list of leaves that are alike would be taken for batches one by one.
        by_number = {f"{i:06}": leaf for i, leaf in enumerate(batches)}
        with lowered_with(self.x64):
            return self.lower(request, (state, meta, by_number, tuple(arguments)), captured)


def _printing(traced: trace.TracedStep | trace.TracedOuter, captured: Captured) -> Printing:
    """A traced function, with what it prints."""
    prints = traced.prints() if traced.printing else None
    return Printing(captured.lift(traced.jaxpr), None if prints is None else captured.lift(prints))


def _named(function: Callable, users: Callable) -> Callable:
    """The function under the name of the user's."""
    function.__name__ = getattr(users, "__name__", function.__name__)
    return function


def _on_auto_axes(function: Callable) -> Callable:
    """The function in a context as traced functions are in: no type has a sharding."""

    def wrapped(*args):
        with auto_context():
            return function(*args)

    return wrapped


def _axes(flags: Sequence[bool], axis: int) -> list[int | None]:
    return [axis if flag else None for flag in flags]


def _indices(count: int, moved: Sequence[int], indices) -> list[int | None]:
    return [next(indices) if i in moved else None for i in range(count)]
