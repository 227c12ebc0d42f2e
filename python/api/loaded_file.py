"""What runs from a file have in common: what the file holds, and the binding of a call to it."""

from __future__ import annotations

import operator
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from metagrad.api.check_arguments import Inputs
from metagrad.api.flat_arguments import CallSignature
from metagrad.api.run_description import RunDescription
from metagrad.api.signature import Signature
from metagrad.frontend.pytrees import tree_of
from metagrad.runtime import jax_internals
from metagrad.runtime.displayed import Text
from metagrad.runtime.exported import container, programs
from metagrad.runtime.exported.container import Container
from metagrad.runtime.exported.programs import StoredProgram
from metagrad.runtime.placed_arrays import PlacedArrays


class FileContents(NamedTuple):
    """What every exported run has, read and checked.

    Attributes:
      file: the file itself.
      described: the run.
      captured: the arrays that its functions captured.
      stored: the programs, by name.
      reload: loads the file again, with the same options.
    """

    file: Container
    described: RunDescription
    captured: list
    stored: dict[str, StoredProgram]
    reload: Callable[[], Any]


class Binding(NamedTuple):
    """What belongs to one structure of the arguments."""

    call: CallSignature
    signature: Signature
    inputs: Inputs


class LoadedFile:
    """The base of `Loaded` and `LoadedStream`.

    Attributes:
      path: of the file.
      plan: the schedule.
      platforms: those that the file has programs for, as JAX names them.
      written_by: versions by name: "metagrad", "jax", "jaxlib", "stablehlo".
    """

    _kind = ""
    plan: Any

    def __init__(self, contents: FileContents):
        file, described, captured, stored, self._reload = contents
        self.path: Path = file.path
        first, *others = stored.values()
        self.platforms = tuple(
            platform
            for platform in first.modules
            if all(platform in other.modules for other in others)
        )
        self.written_by = dict(described.written_by)
        self._described, self._stored = described, stored
        self._captured = PlacedArrays(captured)
        self._binding: Binding | None = None
        self._captured_bytes = [array.nbytes for array in captured]
        self._program_bytes = {
            f"{name}/{platform}": file.payloads[programs.payload_name(name, platform)].nbytes
            for name, program in stored.items()
            for platform in program.modules
        }
        self._bytes = file.bytes

    def __reduce__(self):
        return self._reload, ()

    def __repr__(self) -> str:
        kind = type(self).__name__
        return f"<{kind} {self._summary}; for {', '.join(self.platforms)}; {self.path}>"

    @property
    def _summary(self) -> str:
        """What it is, in a line."""
        step, outer = self._described.names
        wrt = ", ".join(self._described.wrt)
        return f"{self._kind}metagradient of {outer} through {self._steps} of {step}, wrt {wrt}"

    @property
    def _steps(self) -> str:
        steps = self._described.steps
        return "1 step" if steps == 1 else f"{steps:,} steps"

    def explain(self) -> Text:
        """What the file holds, as text: arguments, programs, captured arrays, plan, versions."""
        versions = (f"{name} {version}" for name, version in self.written_by.items())
        lines = [
            f"{self.path}: {self._bytes:,} bytes, format {container.FORMAT}",
            self._summary,
            *self._described.notes,
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

    def _bytecode(self, name: str, platform: str) -> bytes:
        modules = self._stored[name].modules
        if platform not in modules:
            raise ValueError(
                f"{self.path} has programs for {', '.join(self.platforms)} and not for {platform}: "
                f"export it with platforms={(*self.platforms, platform)}"
            )
        bytecode = modules[platform]
        if b"lapack_" in bytecode:
            jax_internals.prepare_lapack()
        return bytecode

    def _bound(self, call: CallSignature, trees: tuple) -> Binding:
        """The signature of a call, with the structures of its arguments.

        Args:
          trees: (state0, meta, batches, outer_args). Of a stream, what a batch looks like.

        Raises:
          TypeError: a tree has other leaves; the message names the first.
        """
        bound = self._binding
        if (
            bound is None
            or call.structure != bound.call.structure
            or len(call.constants) != len(bound.call.constants)
            or not all(map(operator.is_, call.constants, bound.call.constants))
        ):
            signature = self._described.signature(trees)
            bound = self._binding = Binding(call, signature, self._inputs(signature))
        return bound

    def _inputs(self, signature: Signature) -> Inputs:
        """What takes the arrays out of the arguments."""
        return Inputs(signature.arguments)


def without_batches(signature: Signature) -> Inputs:
    """The inputs of a call whose batches are a stream: an empty tuple stands for them."""
    state, meta, _, outer = signature.arguments
    return Inputs((state, meta, tree_of("batches", ()), outer))
