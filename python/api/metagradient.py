"""`train_step.metagradient(...)`: the gradient of a whole training run.

It can be called, looked into, or compiled ahead of time.
"""

from __future__ import annotations

import copy
import dataclasses
import os
import warnings
from collections.abc import Callable, Hashable
from typing import Any, Generic, Literal, TypeAlias, overload

import jax

from metagrad.api import driver, stages
from metagrad.api.approximations import Truncated, check_approximation, truncation
from metagrad.api.flat_arguments import (
    CallSignature,
    FlatArguments,
    flatten,
    flatten_streamed,
)
from metagrad.api.own_settings import jit_enabled
from metagrad.api.progress import ProgressOption, shown
from metagrad.api.request import Request, check_wrt
from metagrad.api.results import Aux, NoAux, Result, ResultWithAux
from metagrad.api.run_options import StreamOptions, check_fused_options
from metagrad.api.streamed_run import check_gradients, refuse_traced_call
from metagrad.api.streamed_stages import StreamedLowered
from metagrad.api.truncated_stream import TruncatedStream
from metagrad.api.type_variables import AuxT, GradT, KindT, MetaT, StateT, ValueT
from metagrad.api.user_frame import users_level
from metagrad.diagnostics.paths import enumerate_paths
from metagrad.frontend.pytrees import is_array_leaf
from metagrad.runtime import jax_internals, schedules
from metagrad.runtime.schedules.auto import DoesNotFit
from metagrad.runtime.streams import Stream

AnyLowered: TypeAlias = stages.Lowered[Any, Any, Any, Any] | StreamedLowered
Wrt: TypeAlias = Literal["meta", "state", "batches"]


class Metagradient(Generic[StateT, MetaT, ValueT, GradT, KindT]):
    """The metagradient of one training step and one outer function.

    `TrainStep.metagradient` makes it. Calling it with `(state0, meta, batches, *outer_args)` runs
    training and its reversal and returns a `Result`. The first call with new shapes, dtypes or
    settings of JAX compiles; later ones do not. It may be called inside `jax.jit`. Under
    `jax.disable_jit` it is one program all the same.

    A Python number has a weak type: it takes the dtype of what it meets. A leaf that is one in one
    call and an array in the next may therefore mean another program. The step is traced again to
    see; only if the program is another one it is compiled. The result is always that of `jax.jit`
    of the run with the same arguments.
    """

    def __init__(
        self,
        step: Callable,
        outer: Callable,
        *,
        step_has_aux: bool,
        wrt: str | tuple[str, ...],
        has_aux: bool,
        schedule: Any,
        ad: str,
        check_nans: bool | None,
        progress: ProgressOption = None,
        runtime: str = "auto",
        resume_dir: str | os.PathLike | None = None,
        save_every: float = 60.0,
        verify: str | None = None,
        mode: str = "reverse",
        approximation: Any = None,
        remat: str = "auto",
    ):
        names, single = check_wrt(wrt)
        approximations = check_approximation(approximation, names)
        self.request = Request(
            step, outer, step_has_aux, has_aux, names, single, ad, mode, approximations, remat
        )
        self._schedule = (
            schedules.as_schedule(schedule) if schedule is not None else schedules.Auto()
        )
        self._check_nans = check_nans
        self._progress = progress
        self._runtime = runtime
        self._stream_options = StreamOptions(
            None if schedule is None else self._schedule,
            check_nans,
            progress,
            resume_dir,
            save_every,
            verify,
        )
        self._programs: dict[tuple, AnyLowered] = {}
        # Most calls are like the one before: its signature, JAX's settings and its program.
        self._latest: tuple[CallSignature, Any, AnyLowered] | None = None
        # The paths of unread metaparameters that were warned of.
        self._unread: set[str] = set()
        # Of a stream, if only the last steps are differentiated.
        self._of_last_steps: TruncatedStream | None = None

    @property
    def settings(self) -> str:
        """What it leaves out, as text; empty if it is exact."""
        return ", ".join(map(str, self.request.approximations))

    def with_approximation(self, approximation: Any) -> Metagradient[Any, Any, Any, Any, Any]:
        """The same metagradient with this option `approximation`; None: the exact one."""
        approximations = check_approximation(approximation, self.request.wrt)
        other = copy.copy(self)
        other.request = dataclasses.replace(self.request, approximations=approximations)
        other._programs, other._latest, other._unread = {}, None, set()
        other._of_last_steps = None
        return other

    @overload
    def lower(
        self, state0: Any, meta: Any, batches: Stream, *outer_args: Any
    ) -> StreamedLowered: ...
    @overload
    def lower(
        self, state0: Any, meta: Any, batches: Any, *outer_args: Any
    ) -> stages.Lowered[StateT, ValueT, GradT, KindT]: ...
    def lower(self, state0: Any, meta: Any, batches: Any, *outer_args: Any) -> Any:
        """Traces and lowers for these arguments, without running anything.

        Args:
          state0, meta, batches, outer_args: arrays or `jax.ShapeDtypeStruct`s; batches may be a
            `Stream`.

        Returns:
          The program in all its stages: `.stages`, `.ir(stage)`, `.plan`, `.explain()`,
          `.compile()`.

        Raises:
          TypeError, ValueError: an argument or the step cannot be differentiated through; the
            message names the leaf and says what to do.
          EnzymeError: with ad="enzyme", Enzyme failed on a function.
        """
        with jit_enabled(), shown(self._progress):
            lowered = self._lowered(state0, meta, batches, outer_args)
        if "meta" in self.request.wrt:
            self._warn_of_unread(lowered.unread)
        return lowered

    def _lowered(self, state0: Any, meta: Any, batches: Any, outer_args: tuple) -> AnyLowered:
        if not self._is_streamed(batches):
            try:
                return driver.lower(
                    self.request,
                    (state0, meta, batches, outer_args),
                    schedule=self._schedule,
                    check_nans=self._check_nans,
                    progress=self._progress,
                )
            except DoesNotFit:
                # What does not fit as one program may as a streamed run, which has the batches of
                # some steps on the device, and states in host memory or on disk.
                is_one_program = self._runtime == "fused" or self.request.mode == "forward"
                if is_one_program or truncation(self.request.approximations) is not None:
                    raise
                if jax_internals.is_traced_call():
                    raise
        if truncation(self.request.approximations) is not None:
            raise ValueError(
                "a streamed run of which only the last steps are differentiated is no program of "
                "its own, so it cannot be lowered: call it, or lower it for stacked arrays"
            )
        stream = batches if isinstance(batches, Stream) else Stream(batches)
        arguments = flatten_streamed(state0, meta, stream, outer_args)
        return driver.lower_streamed(self.request, arguments.to_trace, stream, self._stream_options)

    def _truncated(self, last: int) -> TruncatedStream:
        """The metagradient of a stream's last steps, behind plain ones."""
        request = self.request
        if self._of_last_steps is None:
            others = [each for each in request.approximations if not isinstance(each, Truncated)]
            rest = self.with_approximation(tuple(others))
            self._of_last_steps = TruncatedStream(request.step, request.step_has_aux, rest, last)
        return self._of_last_steps

    def _is_streamed(self, batches: Any) -> bool:
        """Whether the host walks the plan.

        Raises:
          TypeError: a stream, where the user asks for one program.
          ValueError: options are given that a run has not.
        """
        if isinstance(batches, Stream) and self.request.mode == "forward":
            raise TypeError(
                "mode='forward' is one program, which needs all batches at once, and batches is a "
                "Stream. Give stacked arrays, or use mode='reverse'."
            )
        if isinstance(batches, Stream) and self._runtime == "fused":
            raise TypeError(
                'runtime="fused" is one program, which needs all batches at once, and batches is a '
                'Stream. Use runtime="auto" or "streamed", or give stacked arrays.'
            )
        if isinstance(batches, Stream):
            check_gradients(self.request.wrt, batches)
            if "batches" in self.request.wrt and truncation(self.request.approximations):
                raise ValueError(
                    'Truncated with a metagrad.Stream and wrt="batches" is not there: give stacked '
                    "arrays, or the stream of the last steps alone without the approximation"
                )
            return True
        if self._runtime == "streamed":
            return True
        check_fused_options(self._stream_options.resume_dir, self._stream_options.verify)
        return False

    def _warn_of_unread(self, paths: tuple[str, ...]) -> None:
        new = [path for path in paths if path not in self._unread]
        self._unread.update(new)
        if new:
            warnings.warn(
                f"the step `{self.request.step_name}` never reads {enumerate_paths(new)}: the "
                "gradient is zero. Is a name misspelt? Take out of meta what the step does not "
                "need.",
                stacklevel=users_level(),
            )

    @overload
    def __call__(
        self: Metagradient[StateT, MetaT, ValueT, GradT, NoAux],
        state0: StateT,
        meta: MetaT,
        batches: Any,
        *outer_args: Any,
    ) -> Result[ValueT, GradT, StateT]: ...
    @overload
    def __call__(
        self: Metagradient[StateT, MetaT, ValueT, GradT, Aux[AuxT]],
        state0: StateT,
        meta: MetaT,
        batches: Any,
        *outer_args: Any,
    ) -> ResultWithAux[ValueT, GradT, StateT, AuxT]: ...
    def __call__(self, state0: Any, meta: Any, batches: Any, *outer_args: Any) -> Any:
        """Runs training from `state0` and returns value, gradient and final state (and aux).

        Args:
          state0: the state before the first step.
          meta: the metaparameters; they enter every step.
          batches: a pytree whose leaves have a leading axis of length T; batch t is entry t of
            each. A list of two or more alike entries (equal structures, shapes and dtypes), or a
            tuple of more than eight, is taken for batches one by one and refused.
          *outer_args: further arguments of the outer function.

        Raises:
          TypeError, ValueError: as `lower`. An error from inside the step or the outer function
            stays what it is, with a note that says what metagrad called the function with.
          FloatingPointError: with `check_nans=True`, or with `jax_debug_nans` on, there is a NaN;
            the message names the leaf and the step. With `jax_debug_infs` on, an infinity.

        Warns:
          UserWarning: the step never reads a floating-point leaf of meta, whose gradient is zero;
            once for each leaf, if `wrt` names "meta".
          RuntimeWarning: the result is not finite (`check_nans` of `TrainStep.metagradient`).
        """
        with jit_enabled():
            if self._is_streamed(batches):
                refuse_traced_call()
                batches = batches if isinstance(batches, Stream) else Stream(batches)
                batches.check_values()
                last = truncation(self.request.approximations)
                if last is not None:
                    return self._truncated(last)(state0, meta, batches, *outer_args)
                arguments = flatten_streamed(state0, meta, batches, outer_args)
            else:
                arguments = flatten((state0, meta, batches, outer_args))
            lowered = self._known(arguments)
            if lowered is not None:
                return lowered.finish(lowered.start(arguments), arguments)
            with shown(self._progress):
                lowered = self.lower(state0, meta, batches, *outer_args)
                self._remember(arguments, lowered)
                outcome = lowered.start(arguments)
            return lowered.finish(outcome, arguments)

    def _known(self, arguments: FlatArguments) -> AnyLowered | None:
        """The program that an earlier call made and that serves these arguments, if there is one.

        Raises:
          TypeError: a leaf that is not an array is not hashable.
        """
        settings = jax_internals.settings()
        if self._latest is not None:
            signature, its_settings, lowered = self._latest
            if settings == its_settings and arguments.signature.is_same(signature):
                return lowered
        try:
            known = self._programs.get((arguments.signature.key, settings))
        except TypeError:
            raise _unhashable(arguments.trees) from None
        if known is None:
            known = self._of_other_weak_types(arguments, settings)
        if known is not None:
            self._remember(arguments, known)
        return known

    def _remember(self, arguments: FlatArguments, lowered: AnyLowered) -> None:
        if lowered.is_of_one_trace:
            return
        settings = jax_internals.settings()
        self._programs[arguments.signature.key, settings] = lowered
        self._latest = arguments.signature, settings, lowered

    def _of_other_weak_types(
        self, arguments: FlatArguments, settings: Hashable
    ) -> AnyLowered | None:
        """A program for arguments that differ from these in which types are weak, if it serves.

        A weak type (that of a Python number) can change what the step computes: `0.05 * x` is
        bfloat16 for a bfloat16 x, and float32 if 0.05 is an array. So the step is traced again, and
        the program serves if the same one would be made.
        """
        alike = [
            lowered
            for (of_signature, of_settings), lowered in self._programs.items()
            if of_settings == settings
            and arguments.signature.differs_in_weak_types(CallSignature(*of_signature))
        ]
        for lowered in dict.fromkeys(alike):
            with shown(self._progress):
                if driver.is_program_of(lowered.program, self.request, arguments.to_trace):
                    return lowered
        return None

    def __getstate__(self) -> dict[str, Any]:
        """Without the programs, which are code for this process."""
        return self.__dict__ | {"_programs": {}, "_latest": None, "_of_last_steps": None}

    def __repr__(self) -> str:
        request = self.request
        names = ", ".join(map(repr, request.wrt))
        how = f"schedule={self._schedule}"
        if request.mode != "reverse":
            how = f"mode={request.mode!r}" + (f", {how}" if request.mode == "auto" else "")
        approximate = "".join(f", APPROXIMATE: {each}" for each in request.approximations)
        return (
            f"Metagradient({request.step_name}, {request.outer_name}, wrt=({names}), "
            f"{how}{approximate})"
        )


def _unhashable(arguments) -> TypeError:
    names = ("state", "meta", "batches", "outer_args")
    for name, tree in zip(names, arguments):
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
            if not is_array_leaf(leaf) and type(leaf).__hash__ is None:
                return TypeError(
                    f"{name}{jax.tree_util.keystr(path)} is {leaf!r}, which is neither an array "
                    "nor hashable. A leaf that is not an array is a constant of the compilation, "
                    "so it must be hashable: give an array, a tuple or a frozenset."
                )
    return TypeError(f"a part of the arguments is not hashable: {jax.tree.structure(arguments)}")
