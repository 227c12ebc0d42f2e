"""A streamed run from a file. Neither the compiler nor Enzyme has a part in it."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from typing import Any

from metagrad.api.check_arguments import Inputs
from metagrad.api.flat_arguments import FlatArguments, flatten_streamed
from metagrad.api.loaded_file import FileContents, LoadedFile, without_batches
from metagrad.api.own_settings import lowered_with
from metagrad.api.progress import shown
from metagrad.api.results import Result, ResultWithAux
from metagrad.api.run_options import StreamOptions
from metagrad.api.signature import Signature
from metagrad.api.streamed_executable import StreamedExecutable
from metagrad.api.streamed_run import refuse_traced_call, run_streamed
from metagrad.api.weak_types import with_given_dtypes
from metagrad.runtime import jax_internals
from metagrad.runtime.executors.fused import FusedProgram
from metagrad.runtime.executors.kernels import Kernels, StepLayout, kernel_gradients
from metagrad.runtime.schedules.segment_tables import KERNELS, Segment
from metagrad.runtime.schedules.two_level import TwoLevelPlan
from metagrad.runtime.streams import Stream


class LoadedStream(LoadedFile):
    """A streamed run from a file: call it as the `StreamedCompiled` that was exported.

    Attributes:
      path: of the file.
      plan: the plan in two levels, for the number of batches that it was lowered for.
      platforms: those that the file has programs for, as JAX names them.
      written_by: versions by name: "metagrad", "jax", "jaxlib", "stablehlo".
    """

    _kind = "streamed "

    def __init__(
        self,
        contents: FileContents,
        plan: TwoLevelPlan,
        segment: Segment,
        layout: StepLayout,
        options: StreamOptions,
    ):
        super().__init__(contents)
        self.plan: TwoLevelPlan = plan
        platform = jax_internals.default_platform()
        kernels = Kernels.of(
            layout,
            segment,
            plan.segment_slots,
            *(self._program(name, layout, platform) for name in KERNELS),
        )
        # Its signature is that of a call.
        self._executable = StreamedExecutable(
            contents.described.own_signature,
            layout,
            kernels.outer_vjp.outputs[0].shape,
            lambda _: kernels,
            self._captured.beside,
            self._fingerprint,
            platform,
            options,
            is_loaded=True,
        )
        self._kernels = kernels

    def _program(self, name: str, layout: StepLayout, platform: str) -> FusedProgram:
        stored = self._stored[name]
        return FusedProgram(
            functools.partial(self._bytecode, name),
            platform,
            stored.inputs,
            stored.outputs,
            (),
            kernel_gradients(name, layout, stored.inputs, stored.outputs),
        )

    def _fingerprint(self) -> str:
        digest = hashlib.sha256()
        for name in KERNELS:
            for platform, bytecode in self._stored[name].modules.items():
                digest.update(f"{name}/{platform} {len(bytecode)} ".encode() + bytecode)
        return digest.hexdigest()

    def __call__(
        self, state0: Any, meta: Any, batches: Any, *outer_args: Any
    ) -> Result | ResultWithAux:
        """Runs training from `state0` and returns value, gradient and final state (and aux).

        Args:
          state0, meta, *outer_args: as for the metagradient that was exported. Their leaves have
            the same paths, shapes and dtypes. The structure of the results is that of the
            arguments.
          batches: a `Stream`, or stacked arrays; any number of batches of the shapes that the run
            was exported for.

        Returns:
          What the metagradient returns: a `Result`, or a `ResultWithAux`.

        Raises:
          TypeError: an argument is not what the programs were exported for; the message names the
            leaf. Or the call is under a transformation of JAX.
          ValueError: the file has no programs for the platform of the arguments.
          FloatingPointError: with `check_nans=True`, something is not finite.
          JournalError: `resume_dir` cannot be used, or holds another run.
          ReplayError: a replay computed another state, if the run was exported with
            `verify="replay"`.
          Any other: what the stream raises.
        """
        with lowered_with(self._described.x64):
            refuse_traced_call()
            stream = batches if isinstance(batches, Stream) else Stream(batches)
            trees = (state0, meta, stream.aval, outer_args)
            arguments = self._flatten(trees, stream)
            bound = self._bound(arguments.signature, trees)
            arrays = bound.inputs.arrays(arguments)
            if stream.sharding is None:
                self._compile(arrays)
            executable = dataclasses.replace(self._executable, signature=bound.signature)
            result = run_streamed(executable, self._plan_of(len(stream)), arrays, stream)
            return with_given_dtypes(result, bound.signature, arguments)

    @property
    def _steps(self) -> str:
        return "any number of steps"

    def _flatten(self, trees: tuple, stream: Stream) -> FlatArguments:
        state0, meta, _, outer_args = trees
        try:
            return flatten_streamed(state0, meta, stream, outer_args)
        except (TypeError, ValueError, OverflowError):
            # JAX does not take a leaf. The better message says what the programs take.
            self._inputs(self._described.signature(trees)).check((state0, meta, (), outer_args))
            raise

    def _inputs(self, signature: Signature) -> Inputs:
        return without_batches(signature)

    def _compile(self, arrays: list) -> None:
        if not self._kernels.is_compiled and not self._kernels.on(arrays).anywhere:
            with shown(self._executable.options.progress):
                self._kernels.compile()

    def _plan_of(self, steps: int) -> TwoLevelPlan:
        return self.plan if steps == self.plan.steps else self.plan.for_steps(steps)
