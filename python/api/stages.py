"""A metagradient in its stages: lowered, compiled. The names follow `jax.stages`."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Generic, NamedTuple, overload

import jax

from metagrad.api.check_arguments import Inputs
from metagrad.api.explanation import explanation
from metagrad.api.export import export
from metagrad.api.flat_arguments import FlatArguments, flatten
from metagrad.api.not_pickled import not_pickled
from metagrad.api.own_settings import lowered_with
from metagrad.api.program import Program
from metagrad.api.progress import shown
from metagrad.api.results import Aux, NoAux, Result, ResultWithAux
from metagrad.api.type_variables import AuxT, GradT, KindT, StateT, ValueT
from metagrad.api.user_frame import users_level
from metagrad.api.weak_types import with_given_dtypes
from metagrad.diagnostics import debug_checks, not_finite
from metagrad.frontend.partition import Decision
from metagrad.runtime import jax_errors, jax_internals
from metagrad.runtime.displayed import Text
from metagrad.runtime.schedules.forward_plan import ForwardPlan
from metagrad.runtime.schedules.plan import Plan
from metagrad.runtime.stage_reports import stage


class Outcome(NamedTuple):
    """What a run of a program gives.

    Attributes:
      results: the flat results.
      is_finite: whether value, gradient and state are, as an array; None under a transformation of
        JAX, where nothing is looked at.
    """

    results: Sequence[jax.Array]
    is_finite: Any


class Lowered(Generic[StateT, ValueT, GradT, KindT]):
    """A metagradient lowered for given shapes. Made by `Metagradient.lower`."""

    def __init__(self, program: Program):
        self._program = program
        self._compiled: Compiled[StateT, ValueT, GradT, KindT] | None = None
        self._inputs = Inputs(program.signature.arguments)
        self._jitted = jax.jit(self._checked)
        self._diagnose = program.diagnose

    @property
    def stages(self) -> tuple[str, ...]:
        """Names of the stages, in order; each can be given to `ir`."""
        return (*self._program.snapshots.stages, "hlo")

    def ir(self, stage: str) -> str:
        """The program after a stage, as text.

        It is MLIR, and for "hlo" what XLA made of it. Asking for "hlo" compiles the program, if
        that has not been done.

        Raises:
          ValueError: there is no such stage.
        """
        if stage not in self.stages:
            raise ValueError(f"no stage {stage!r}; there are {', '.join(map(repr, self.stages))}")
        if stage == "hlo":
            return self.compile().as_text()
        with lowered_with(self._program.x64):
            return self._program.snapshots.text(stage)

    @property
    def plan(self) -> Plan | ForwardPlan:
        """The schedule: steps run, slots held. `str()` draws it.

        In forward mode it is a `metagrad.ForwardPlan`, which stores nothing.
        """
        return self._program.plan

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """Who differentiates each function.

        There is one entry for each inner gradient, one for the optimiser's update and one for the
        outer function.
        """
        return self._program.decisions

    @property
    def is_of_one_trace(self) -> bool:
        """Whether a function closes over a traced value, so that this program is for its trace."""
        return self._program.captured.are_traced

    @property
    def program(self) -> Program:
        """All that lowering made."""
        return self._program

    @property
    def unread(self) -> tuple[str, ...]:
        """Paths of the floating-point leaves of meta that the step never reads."""
        return self._program.unread

    def explain(self) -> Text:
        """Who differentiates what, why, and what a slot holds of the state, as text (a `str`).

        The latter is there if slots do not hold all leaves of the state: those that the step does
        not change are not stored, and neither are counters. A line says how many queries there are,
        if the outer value is a vector.

        Then come the stop_gradients on the way from what `wrt` names to the outer value, and the
        custom rules that are not known to be the derivative of their function. There the
        metagradient, which is JAX's derivative, may differ from finite differences.

        The last line says so if the table of proven operations was not measured with this version
        of JAX.
        """
        return explanation(self._program)

    def __reduce__(self):
        raise not_pickled("lowered")

    def __repr__(self) -> str:
        compiled = "" if self._compiled is None else ", compiled"
        return f"<Lowered {self._program.summary}{compiled}>"

    def compile(self) -> Compiled[StateT, ValueT, GradT, KindT]:
        """Compiles with XLA, once."""
        if self._compiled is None:
            with lowered_with(self._program.x64), shown(self._program.progress):
                stage("lowering the program for XLA")
                lowered = self._jitted.lower(*self._program.inputs)
                stage("compiling with XLA")
                self._compiled = Compiled(self, self._program, lowered.compile())
        return self._compiled

    def start(self, arguments: FlatArguments) -> Outcome:
        """Begins a call of the metagradient, for arguments of this program's shapes.

        Under a transformation of JAX the program becomes a part of another. Else `jax.jit` runs it:
        it compiles for the devices of the arguments, if that has not been done.
        """
        arrays = self._inputs.arrays(arguments)
        if jax_internals.is_traced_call():
            return Outcome(self._call_traced(arrays), None)
        stage("compiling with XLA")
        return self.start_with(self._jitted, arrays)

    def start_with(self, execute: Callable[..., tuple], arrays: list) -> Outcome:
        """Begins a run of the program, compiled as `execute`."""
        mesh = self._program.fused.mesh
        inputs = [*arrays, *self._program.captured.arrays_beside(arrays, mesh)]
        checks = debug_checks.unchecked() if debug_checks.are_on() else contextlib.nullcontext()
        try:
            with checks:
                return Outcome(*execute(*inputs))
        except ValueError as error:
            # Arguments on several devices, say. JAX counts the flat inputs.
            names = [f"{name} of the metagradient" for name in self._program.fused.gradients.inputs]
            message = jax_errors.with_names_of_inputs(error, names)
            if message == str(error):
                raise
            raise ValueError(message) from None

    def finish(self, outcome: Outcome, arguments: FlatArguments):
        """The result of a call, looked at as `check_nans` says."""
        signature = self._program.signature
        result = with_given_dtypes(signature.unflatten(outcome.results), signature, arguments)
        if outcome.is_finite is None:
            return result
        if debug_checks.are_on():
            debug_checks.check(result, arguments.trees, self._program.first_nan)
        elif (
            self._diagnose is not None
            and not outcome.is_finite
            and (warning := self._diagnose(result, arguments.trees))
        ):
            # Once for each program, since the search costs a training run and descent on a
            # metagradient calls the program again and again.
            self._diagnose = None
            warnings.warn(warning, RuntimeWarning, stacklevel=users_level())
        return result

    def _call_traced(self, arrays: list):
        if self._program.check_nans:
            message = (
                "check_nans=True checks nothing under jax.jit, jax.vmap and the like, where there "
                "are no values yet. Call the metagradient outside of them."
            )
            warnings.warn(message, stacklevel=users_level())
        return self._program.fused.call(*arrays, *self._program.captured.arrays_beside(arrays))

    def _checked(self, *inputs):
        """The program's results, and whether they are finite (`not_finite.is_finite`)."""
        results = self._program.fused.call(*inputs)
        if self._program.diagnose is None:
            return results, True
        signature = self._program.signature
        first = 1 + len(signature.outer_aux.leaves)
        last = first + len(signature.gradient_leaves())
        looked_at = [
            [results[i] for i in places if i not in self._program.known_finite]
            for places in (
                [0, *range(first, last)],
                range(last, last + len(signature.state.leaves)),
            )
        ]
        return results, not_finite.is_finite(*looked_at)


class Compiled(Generic[StateT, ValueT, GradT, KindT]):
    """A compiled metagradient: call it with arguments of the shapes that it was lowered for.

    Attributes:
      xla: the program as XLA compiled it. It takes the arrays of the arguments one by one, typed
        keys as their data, and behind them the arrays that the functions capture.
    """

    def __init__(self, lowered: Lowered, program: Program, xla: jax.stages.Compiled):
        self._lowered, self._program, self.xla = lowered, program, xla
        self._inputs = lowered._inputs

    def __reduce__(self):
        raise not_pickled("compiled")

    def __repr__(self) -> str:
        return f"<Compiled {self._program.summary}>"

    @property
    def plan(self) -> Plan | ForwardPlan:
        """The schedule: steps run, slots held. `str()` draws it.

        In forward mode it is a `metagrad.ForwardPlan`, which stores nothing.
        """
        return self._program.plan

    @overload
    def __call__(
        self: Compiled[StateT, ValueT, GradT, NoAux],
        state0: StateT,
        meta: Any,
        batches: Any,
        *outer_args: Any,
    ) -> Result[ValueT, GradT, StateT]: ...
    @overload
    def __call__(
        self: Compiled[StateT, ValueT, GradT, Aux[AuxT]],
        state0: StateT,
        meta: Any,
        batches: Any,
        *outer_args: Any,
    ) -> ResultWithAux[ValueT, GradT, StateT, AuxT]: ...
    def __call__(self, state0: Any, meta: Any, batches: Any, *outer_args: Any) -> Any:
        """Runs training from `state0` and returns value, gradient and final state (and aux).

        Args:
          state0: the state before the first step.
          meta: the metaparameters.
          batches: a pytree whose leaves have a leading axis of length T.
          *outer_args: further arguments of the outer function.
            All of them have the structures, shapes and dtypes that the program was lowered for. A
            Python number may stand for an array without axes, and takes its dtype. NumPy arrays are
            copied. Under `jax.jit` the program becomes a part of the one around it.

        Returns:
          What the metagradient returns: a `Result`, or a `ResultWithAux`.

        Raises:
          TypeError: an argument is not what the program was lowered for; the message names the
            leaf.
          FloatingPointError: with `check_nans=True`, or with `jax_debug_nans` on, there is a NaN;
            the message names the leaf and the step. With `jax_debug_infs` on, an infinity.
        """
        with lowered_with(self._program.x64):
            trees = (state0, meta, batches, outer_args)
            try:
                arguments = flatten(trees)
            except (TypeError, ValueError, OverflowError):
                # JAX does not take a leaf. The better message says what this program was compiled
                # for.
                self._inputs.check(trees)
                raise
            if jax_internals.is_traced_call():
                outcome = self._lowered.start(arguments)
            else:
                outcome = self._lowered.start_with(self.xla, self._inputs.arrays(arguments))
            return self._lowered.finish(outcome, arguments)

    def export(
        self,
        path: str | os.PathLike,
        platforms: Sequence[str] = ("cpu", "cuda"),
        *,
        overwrite: bool = False,
    ) -> int:
        """Writes one file, which `metagrad.load` runs without Enzyme and without these functions.

        It holds the program as a StableHLO artifact for each platform, the plan, the paths, shapes
        and dtypes of the arguments, and the arrays that the functions capture; no pickle. This
        process needs no device of a platform to export for it.

        Args:
          path: of the file.
          platforms: "cpu", "cuda", "rocm", "tpu".
          overwrite: whether a file at `path` is replaced. The new one takes its place when all of
            it is on the disk.

        Returns:
          The file's size in bytes.

        Raises:
          FileExistsError: there is a file, and `overwrite` is not set.
          ValueError: a platform is unknown, the functions call the host or close over a traced
            value, or an operation has no form that other versions of JAX read.
          TypeError: an auxiliary output has a node that no file holds; the message names it.
          OSError: the file cannot be written.
        """
        with shown(self._program.progress):
            return export(self._program, path, platforms, overwrite=overwrite)

    def memory_analysis(self):
        """XLA's memory analysis: bytes of arguments, outputs, temporaries and code."""
        return self.xla.memory_analysis()

    def cost(self):
        """XLA's cost analysis of the program.

        Loops are counted once, so this does not measure the run's time.
        """
        return self.xla.cost_analysis()

    def as_text(self) -> str:
        """The optimised HLO."""
        return self.xla.as_text() or ""
