"""A fused run from a file. Neither the compiler nor Enzyme has a part in it."""

from __future__ import annotations

import functools
from typing import Any

import jax

from metagrad.api.check_arguments import Inputs
from metagrad.api.flat_arguments import flatten
from metagrad.api.loaded_file import FileContents, LoadedFile
from metagrad.api.own_settings import lowered_with
from metagrad.api.results import Result, ResultWithAux
from metagrad.api.weak_types import with_given_dtypes
from metagrad.runtime import jax_errors, jax_internals
from metagrad.runtime.executors.fused import FusedProgram
from metagrad.runtime.schedules.forward_plan import ForwardPlan
from metagrad.runtime.schedules.plan import Plan


class Loaded(LoadedFile):
    """A run from a file: call it as the `Compiled` that was exported.

    Attributes:
      path: of the file.
      plan: the schedule: steps run, slots held. `str()` draws it.
      platforms: those that the file has programs for, as JAX names them.
      written_by: versions by name: "metagrad", "jax", "jaxlib", "stablehlo".
    """

    def __init__(self, contents: FileContents, plan: Plan | ForwardPlan):
        super().__init__(contents)
        self.plan: Plan | ForwardPlan = plan
        fused = contents.stored["fused"]
        self._fused = FusedProgram(
            functools.partial(self._bytecode, "fused"),
            jax_internals.default_platform(),
            fused.inputs,
            fused.outputs,
            (),
            contents.described.gradients(len(contents.captured)),
        )
        self._jitted = jax.jit(self._run)

    def __call__(
        self, state0: Any, meta: Any, batches: Any, *outer_args: Any
    ) -> Result | ResultWithAux:
        """Runs training from `state0` and returns value, gradient and final state (and aux).

        It works under `jax.jit`, and `jax.grad` of a function of `.value` is the gradient that the
        program computes.

        Args:
          state0, meta, batches, *outer_args: as for the metagradient that was exported. Their
            leaves have the same paths, shapes and dtypes. The structure of the results is that of
            the arguments.

        Returns:
          What the metagradient returns: a `Result`, or a `ResultWithAux`.

        Raises:
          TypeError: an argument is not what the program was exported for; the message names the
            leaf.
          ValueError: the file has no program for the platform of the arguments.
        """
        with lowered_with(self._described.x64):
            trees = (state0, meta, batches, outer_args)
            try:
                arguments = flatten(trees)
            except (TypeError, ValueError, OverflowError):
                # JAX does not take a leaf. The better message says what the program takes.
                Inputs(self._described.signature(trees).arguments).check(trees)
                raise
            bound = self._bound(arguments.signature, trees)
            arrays = bound.inputs.arrays(arguments)
            inputs = [*arrays, *self._captured.beside(arrays)]
            result = bound.signature.unflatten(self._execute(inputs))
            return with_given_dtypes(result, bound.signature, arguments)

    def _execute(self, inputs: list) -> Any:
        if jax_internals.is_traced_call():
            return self._fused.call(*inputs)
        try:
            return self._jitted(*inputs)
        except ValueError as error:
            # Arguments on several devices, say. JAX counts the flat inputs.
            names = [f"{name} of the metagradient" for name in self._fused.gradients.inputs]
            message = jax_errors.with_names_of_inputs(error, names)
            if message == str(error):
                raise
            raise ValueError(message) from None

    def _run(self, *inputs: Any) -> Any:
        return self._fused.call(*inputs)
