"""Reads an exported run and calls it. Neither the compiler nor Enzyme has a part in it."""

from __future__ import annotations

import math
import operator
import os
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from metagrad.api import run_description
from metagrad.api.check_arguments import Inputs
from metagrad.api.flat_arguments import CallSignature, flatten
from metagrad.api.no_vmap import refusing_vmap
from metagrad.api.own_settings import lowered_with
from metagrad.api.results import Result, ResultWithAux
from metagrad.api.run_description import RunDescription
from metagrad.api.signature import Signature
from metagrad.runtime import jax_internals
from metagrad.runtime.displayed import Text
from metagrad.runtime.executors.fused import FusedProgram
from metagrad.runtime.exported import avals, container, programs
from metagrad.runtime.exported.container import Container, InvalidFile
from metagrad.runtime.exported.fields import Fields
from metagrad.runtime.exported.programs import StoredProgram
from metagrad.runtime.placed_arrays import PlacedArrays
from metagrad.runtime.schedules.plan import Plan


def load(path: str | os.PathLike) -> Loaded:
    """Reads a file that `Compiled.export` wrote.

    Neither Enzyme nor the functions that the run was made of are needed. Every Python and JAX that
    metagrad supports reads it, older or newer than what wrote it.

    The whole file is read and checked. Its programs are parsed in a process of their own, and hold
    nothing but arithmetic: no calls of the host, and of libraries only linear algebra and random
    bits. The checksums find damage, and not who wrote a file: what a program computes is its
    author's say.

    Args:
      path: of the file.

    Returns:
      The run, to be called as run(state0, meta, batches, *outer_args).

    Raises:
      InvalidFile: the file is not an exported run, is damaged, of a newer format, or holds what it
        may not. (A ValueError.)
      OSError: the file cannot be read.
    """
    file = container.read(path)
    try:
        contents = Fields(file.contents, "the manifest")
        described = run_description.from_json(contents, file.payloads)
        captured = _captured(contents, file)
        with lowered_with(described.x64):
            stored = programs.from_payloads(contents.object("programs"), file.payloads)
        _check(described, captured, stored)
    except (ValueError, TypeError, OverflowError, MemoryError) as error:
        raise InvalidFile(path, str(error) or type(error).__name__) from None
    return Loaded(file, described, captured, stored)


def _captured(contents: Fields, file: Container) -> list[np.ndarray]:
    arrays = []
    for i, fields in enumerate(contents.objects("captured")):
        aval, name = avals.from_json(fields), f"captured/{i}"
        if name not in file.payloads:
            raise ValueError(f"it has no payload {name!r}")
        size = math.prod(aval.shape) * aval.dtype.itemsize
        if file.payloads[name].nbytes != size:
            raise ValueError(
                f"the payload {name!r} has {file.payloads[name].nbytes:,} bytes, not {size:,} as "
                f"for {aval.dtype}{list(aval.shape)}"
            )
        arrays.append(file.payloads[name].view(aval.dtype).reshape(aval.shape))
    return arrays


def _check(
    described: RunDescription, captured: list[np.ndarray], stored: dict[str, StoredProgram]
) -> None:
    """Compares what the program takes and gives with the trees of arguments and results."""
    if "fused" not in stored:
        raise ValueError("it has no program 'fused'")
    program = stored["fused"]
    inputs = [(x.shape, x.dtype) for x in described.inputs]
    inputs += [(x.shape, x.dtype) for x in captured]
    if [(x.shape, x.dtype) for x in program.inputs] != inputs:
        raise ValueError("its program does not take the arguments that it says")
    if not program.outputs or program.outputs[0].shape:
        raise ValueError("its program gives no value")
    outputs = described.outputs(program.outputs[0])
    if [(x.shape, x.dtype) for x in program.outputs] != [(x.shape, x.dtype) for x in outputs]:
        raise ValueError("its program does not give the results that it says")


class _Binding(NamedTuple):
    """What belongs to one structure of the arguments."""

    call: CallSignature
    signature: Signature
    inputs: Inputs


class Loaded:
    """A run from a file: call it as the `Compiled` that was exported.

    Attributes:
      path: of the file.
      plan: the schedule: steps run, slots held. `str()` draws it.
      platforms: those that the file has programs for, as JAX names them.
      written_by: versions by name: "metagrad", "jax", "jaxlib", "stablehlo".
    """

    def __init__(
        self,
        file: Container,
        described: RunDescription,
        captured: list[np.ndarray],
        stored: dict[str, StoredProgram],
    ):
        self.path: Path = file.path
        self.plan: Plan = described.plan
        fused = stored["fused"]
        self.platforms = tuple(fused.modules)
        self.written_by = dict(described.written_by)
        self._described, self._modules = described, fused.modules
        self._captured = PlacedArrays(captured)
        self._fused = FusedProgram(
            self._bytecode,
            jax.default_backend(),
            fused.inputs,
            fused.outputs,
            (),
            described.gradients(len(captured)),
        )
        self._jitted = jax.jit(self._run)
        self._binding: _Binding | None = None
        self._captured_bytes = [array.nbytes for array in captured]
        self._program_bytes = {
            f"{name}/{platform}": file.payloads[programs.payload_name(name, platform)].nbytes
            for name, program in stored.items()
            for platform in program.modules
        }
        self._bytes = file.bytes

    def __reduce__(self):
        return load, (self.path,)

    def __repr__(self) -> str:
        return f"<Loaded {self._summary}; for {', '.join(self.platforms)}; {self.path}>"

    @property
    def _summary(self) -> str:
        step, outer = self._described.names
        steps = "1 step" if self.plan.steps == 1 else f"{self.plan.steps:,} steps"
        wrt = ", ".join(self._described.wrt)
        return f"metagradient of {outer} through {steps} of {step}, wrt {wrt}"

    def explain(self) -> Text:
        """What the file holds, as text: arguments, programs, captured arrays, plan, versions."""
        versions = (f"{name} {version}" for name, version in self.written_by.items())
        lines = [
            f"{self.path}: {self._bytes:,} bytes, format {container.FORMAT}",
            self._summary,
            f"written by {', '.join(versions)}",
            "double precision on" if self._described.x64 else "double precision off",
            "arguments:",
            *(f"    {line}" for tree in self._described.arguments for line in tree.describe()),
            f"captured arrays: {len(self._captured_bytes)}, {sum(self._captured_bytes):,} bytes",
            "programs:",
            *(f"    {name}: {size:,} bytes" for name, size in self._program_bytes.items()),
            "plan:",
            *(f"    {line}" for line in str(self.plan).splitlines()),
        ]
        return Text("\n".join(lines))

    def _bytecode(self, platform: str) -> bytes:
        if platform not in self._modules:
            raise ValueError(
                f"{self.path} has programs for {', '.join(self.platforms)} and not for {platform}: "
                f"export it with platforms={(*self.platforms, platform)}"
            )
        bytecode = self._modules[platform]
        if b"lapack_" in bytecode:
            jax_internals.prepare_lapack()
        return bytecode

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
            return bound.signature.unflatten(self._execute(inputs))

    def _execute(self, inputs: list) -> Any:
        if jax_internals.is_traced_call():
            with refusing_vmap():
                return self._fused.call(*inputs)
        try:
            return self._jitted(*inputs)
        except ValueError as error:
            # Arguments on several devices, say. JAX counts the flat inputs.
            names = [f"{name} of the metagradient" for name in self._fused.gradients.inputs]
            message = jax_internals.with_names_of_inputs(error, names)
            if message == str(error):
                raise
            raise ValueError(message) from None

    def _run(self, *inputs: Any) -> Any:
        return self._fused.call(*inputs)

    def _bound(self, call: CallSignature, trees: tuple) -> _Binding:
        bound = self._binding
        if (
            bound is None
            or call.structure != bound.call.structure
            or len(call.constants) != len(bound.call.constants)
            or not all(map(operator.is_, call.constants, bound.call.constants))
        ):
            signature = self._described.signature(trees)
            bound = self._binding = _Binding(call, signature, Inputs(signature.arguments))
        return bound
