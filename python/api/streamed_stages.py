"""A metagradient that is streamed, in its stages: lowered, compiled.

They are those of stages.py, where the host walks the plan and brings the batches.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from metagrad.api.check_arguments import Inputs
from metagrad.api.explanation import explanation
from metagrad.api.export import export_streamed
from metagrad.api.flat_arguments import FlatArguments, flatten_streamed
from metagrad.api.not_pickled import not_pickled
from metagrad.api.own_settings import lowered_with
from metagrad.api.progress import shown
from metagrad.api.streamed_program import StreamedProgram
from metagrad.api.streamed_run import refuse_traced_call, run_streamed
from metagrad.api.weak_types import with_given_dtypes
from metagrad.compiler import pipeline
from metagrad.compiler.dialect import context
from metagrad.frontend.partition import Decision
from metagrad.frontend.pytrees import tree_of
from metagrad.runtime.displayed import Text
from metagrad.runtime.executors.kernels import Kernels
from metagrad.runtime.schedules.segment_tables import KERNELS
from metagrad.runtime.schedules.two_level import TwoLevelPlan
from metagrad.runtime.streams import Stream


class StreamedLowered:
    """A metagradient lowered to be streamed. Made by `Metagradient.lower`.

    It serves any number of batches of the shapes that it was lowered for.
    """

    is_of_one_trace = False

    def __init__(self, program: StreamedProgram, plan: TwoLevelPlan):
        self._program, self._plan = program, plan
        state, meta, _, outer = program.signature.arguments
        self._inputs = Inputs((state, meta, tree_of("batches", ()), outer))

    @property
    def stages(self) -> tuple[str, ...]:
        """Names of the stages, in order, and of the programs that are made of the last one."""
        return (*pipeline.STAGES[: pipeline.STAGES.index("pieces") + 1], *KERNELS)

    def ir(self, stage: str) -> str:
        """The module after a stage as text, or one of the programs: "advance", say.

        Raises:
          ValueError: there is no such stage.
        """
        if stage not in self.stages:
            raise ValueError(f"no stage {stage!r}; there are {', '.join(map(repr, self.stages))}")
        with lowered_with(self._program.x64):
            if stage in KERNELS:
                program = getattr(self._kernels, stage)
                return context.text(context.parse(program.bytecode(program.platform)))
            return self._program.snapshots.text(stage)

    @property
    def plan(self) -> TwoLevelPlan:
        """The plan in two levels, for the number of batches that it was lowered for."""
        return self._plan

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """Who differentiates each function."""
        return self._program.decisions

    @property
    def program(self) -> StreamedProgram:
        """All that lowering made."""
        return self._program

    @property
    def unread(self) -> tuple[str, ...]:
        """Paths of the floating-point leaves of meta that the step never reads."""
        return self._program.unread

    def explain(self) -> Text:
        """As `Lowered.explain`."""
        return explanation(self._program)

    def __reduce__(self):
        raise not_pickled("lowered")

    def __repr__(self) -> str:
        return f"<StreamedLowered {self._program.summary}>"

    def plan_of(self, steps: int) -> TwoLevelPlan:
        """The plan for a number of batches. Its segments are always the same, so that the programs
        are too.
        """
        return self._plan if self._plan.steps == steps else self._plan.for_steps(steps)

    def compile(self) -> StreamedCompiled:
        """Compiles the programs with XLA, once."""
        with lowered_with(self._program.x64), shown(self._program.options.progress):
            self._kernels.compile()
        return StreamedCompiled(self)

    @property
    def _kernels(self) -> Kernels:
        return self._program.kernels(self.plan.segment_slots)

    def start(self, arguments: FlatArguments):
        """Compiles what is not compiled yet. `finish` runs, and shows how far it is."""
        refuse_traced_call()
        kernels = self._kernels
        sharded = arguments.stream is not None and arguments.stream.sharding is not None
        if not (sharded or kernels.is_compiled or kernels.on(arguments.leaves).anywhere):
            self.compile()

    def finish(self, _: Any, arguments: FlatArguments):
        """See `run`."""
        return self.run(arguments)

    def run(self, arguments: FlatArguments):
        """The result for arguments whose batches are a Stream.

        Raises:
          TypeError: an argument is not what the program was lowered for; or the call is traced.
          Any other: see `TrainStep.metagradient`.
        """
        refuse_traced_call()
        if arguments.stream is None:  # stacked arrays, which do not fit as one program
            state0, meta, batches, outer_args = arguments.trees
            arguments = flatten_streamed(state0, meta, Stream(batches), outer_args)
        assert arguments.stream is not None
        plan = self.plan_of(len(arguments.stream))
        arrays = self._inputs.arrays(arguments)
        executable = self._program.executable
        result = run_streamed(executable, plan, arrays, arguments.stream)
        return with_given_dtypes(result, executable.signature, arguments)


class StreamedCompiled:
    """A compiled streamed metagradient: call it with arguments of the shapes that it was lowered
    for, and any number of batches.
    """

    def __init__(self, lowered: StreamedLowered):
        self._lowered = lowered

    @property
    def plan(self) -> TwoLevelPlan:
        """The plan for the number of batches that it was lowered for."""
        return self._lowered.plan

    def __reduce__(self):
        raise not_pickled("compiled")

    def __repr__(self) -> str:
        return f"<StreamedCompiled {self._lowered.program.summary}>"

    def __call__(self, state0: Any, meta: Any, batches: Any, *outer_args: Any) -> Any:
        """Runs training from `state0` and returns value, gradient and final state (and aux).

        Args:
          state0, meta, outer_args: as for `Compiled`.
          batches: a `Stream`, or stacked arrays.
        """
        with lowered_with(self._lowered.program.x64):
            stream = batches if isinstance(batches, Stream) else Stream(batches)
            return self._lowered.run(flatten_streamed(state0, meta, stream, outer_args))

    def memory_analysis(self) -> dict[str, Any]:
        """XLA's memory analysis of each of the three programs, by name.

        Slots between segments and batches that wait are not in it: `plan.bytes_by_tier` has them.
        """
        kernels = self._lowered.program.kernels(self.plan.segment_slots)
        return {name: getattr(kernels, name).compiled.memory_analysis() for name in KERNELS}

    def export(
        self,
        path: str | os.PathLike,
        platforms: Sequence[str] = ("cpu", "cuda"),
        *,
        overwrite: bool = False,
    ) -> int:
        """Writes one file, which `metagrad.load` runs without Enzyme and without these functions.

        It holds the three programs of a streamed run, whatever the number of batches, and the plan.
        With `verify="replay"` the loaded run compares its replays too. The rest is as in
        `Compiled.export`.

        Args:
          path: of the file.
          platforms: "cpu", "cuda", "rocm", "tpu".
          overwrite: whether a file at `path` is replaced. The new one takes its place when all of
            it is on the disk.

        Returns:
          The file's size in bytes.

        Raises:
          As `Compiled.export`; and a ValueError if the steps within a segment follow a schedule
          that is not one of metagrad's.
        """
        program = self._lowered.program
        with shown(program.options.progress):
            return export_streamed(program, self.plan, path, platforms, overwrite=overwrite)
