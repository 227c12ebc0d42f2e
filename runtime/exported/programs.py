"""The programs of an exported run: by name, one module for each platform.

In the file, a program is an entry of `contents["programs"]`, which says what it takes and gives,
and one payload "programs/NAME/PLATFORM" for each platform.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax
import numpy as np
from jaxlib.mlir import ir

from metagrad.runtime import jax_internals
from metagrad.runtime.executors.fused import check_signature
from metagrad.runtime.exported import artifacts, avals
from metagrad.runtime.exported.fields import Fields

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
"""What a program can be lowered for, as JAX names it."""


@dataclasses.dataclass(frozen=True)
class StoredProgram:
    """A program as it lies in a file.

    Attributes:
      inputs, outputs: shapes and dtypes of flat lists of arrays.
      modules: MLIR bytecode by platform. When it is written, as it comes from the compiler. When it
        has been read, as `examine.py` gave it back.
    """

    inputs: tuple[jax.ShapeDtypeStruct, ...]
    outputs: tuple[jax.ShapeDtypeStruct, ...]
    modules: Mapping[str, bytes]


def to_payloads(
    programs: Mapping[str, StoredProgram],
) -> tuple[dict[str, dict], dict[str, bytes]]:
    """The manifest's entry, and the payloads. What is written is read back by the rules of a load.

    Raises:
      ValueError: a program has something that a file may not hold.
    """
    entry: dict[str, dict] = {}
    payloads: dict[str, bytes] = {}
    for name, program in programs.items():
        entry[name] = {
            "platforms": list(program.modules),
            "inputs": [avals.to_json(aval) for aval in program.inputs],
            "outputs": [avals.to_json(aval) for aval in program.outputs],
        }
        for platform, bytecode in program.modules.items():
            payloads[payload_name(name, platform)] = artifacts.serialise(bytecode)
    artifacts.examine(list(payloads.values()))
    return entry, payloads


def from_payloads(entry: Fields, payloads: Mapping[str, np.ndarray]) -> dict[str, StoredProgram]:
    """What `to_payloads` made, examined.

    Raises:
      ValueError: an entry, a payload or a module is not as it must be.
    """
    if not all(map(str.isidentifier, entry)):
        raise ValueError(f"{entry.place} has names that are none: {list(entry)}")
    platforms = {name: _platforms(entry.object(name)) for name in entry}
    names = [(name, platform) for name in platforms for platform in platforms[name]]
    for pair in names:
        if payload_name(*pair) not in payloads:
            raise ValueError(f"it has no payload {payload_name(*pair)!r}")
    plain = artifacts.examine([bytes(payloads[payload_name(*pair)]) for pair in names])
    modules = dict(zip(names, plain, strict=True))
    programs = {}
    for name in platforms:
        fields = entry.object(name)
        program = StoredProgram(
            tuple(map(avals.from_json, fields.objects("inputs"))),
            tuple(map(avals.from_json, fields.objects("outputs"))),
            {platform: modules[name, platform] for platform in platforms[name]},
        )
        for platform, bytecode in program.modules.items():
            _check_main(f"{name}/{platform}", bytecode, program)
        programs[name] = program
    return programs


def _platforms(fields: Fields) -> tuple[str, ...]:
    platforms = fields.texts("platforms")
    if not platforms or len({*platforms}) < len(platforms) or {*platforms} - {*PLATFORMS}:
        raise ValueError(f"{fields.place}.platforms is {list(platforms)}")
    return platforms


def payload_name(name: str, platform: str) -> str:
    """The payload that holds a program for a platform."""
    return f"programs/{name}/{platform}"


def _check_main(name: str, bytecode: bytes, program: StoredProgram) -> None:
    with jax_internals.ir_context():
        module = ir.Module.parse(bytecode)
        operations = [op.operation for op in module.body.operations]
        if any(op.name not in ("func.func", "sdy.mesh") for op in operations):
            raise ValueError(f"its program {name} has more than functions at its top")
        names = [ir.StringAttr(op.attributes["sym_name"]).value for op in operations]
        if [op.name for op, own in zip(operations, names) if own == "main"] != ["func.func"]:
            raise ValueError(f"its program {name} has no function @main")
        try:
            check_signature(module, program.inputs, program.outputs)
        except ValueError as error:
            raise ValueError(f"its program {name} is not what it says: {error}") from None
