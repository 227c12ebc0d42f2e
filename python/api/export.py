"""Writes an exported run: one file that `metagrad.load` runs, without Enzyme."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.metadata import version

import jax
import jaxlib
import numpy as np

from metagrad.api import run_description
from metagrad.api.own_settings import lowered_with
from metagrad.api.program import Program
from metagrad.runtime.exported import artifacts, avals, container, programs
from metagrad.runtime.exported.programs import PLATFORMS, StoredProgram
from metagrad.runtime.stage_reports import stage


def export(
    program: Program,
    path: str | os.PathLike,
    platforms: Sequence[str] = ("cpu", "cuda"),
    *,
    overwrite: bool = False,
) -> int:
    """Writes a file. See `Compiled.export`.

    Returns:
      The file's size in bytes.
    """
    platforms = _checked(platforms)
    _check_exportable(program)
    captured = [np.asarray(array) for array in program.captured.arrays_beside([])]
    with lowered_with(program.x64):
        described, payloads = run_description.to_json(
            program.signature,
            program.plan,
            program.x64,
            program.names,
            {
                "metagrad": version("metagrad"),
                "jax": jax.__version__,
                "jaxlib": jaxlib.__version__,
                "stablehlo": artifacts.VERSION,
            },
        )
        described["captured"] = [avals.to_json(array) for array in captured]
        modules = {}
        for platform in platforms:
            stage(f"lowering for {platform}")
            modules[platform] = program.fused.bytecode(platform)
        fused = StoredProgram(program.fused.inputs, program.fused.outputs, modules)
        stage("examining the programs")
        try:
            described["programs"], artifact_payloads = programs.to_payloads({"fused": fused})
        except ValueError as error:
            raise ValueError(f"this metagradient cannot be exported: {error}") from None
    arrays = {f"captured/{i}": array_bytes(array) for i, array in enumerate(captured)}
    stage("writing the file")
    return container.write(
        path, described, {**payloads, **artifact_payloads, **arrays}, overwrite=overwrite
    )


def _checked(platforms: Sequence[str]) -> tuple[str, ...]:
    if isinstance(platforms, str):
        raise TypeError(f"platforms is the string {platforms!r}; write ({platforms!r},)")
    platforms = tuple(dict.fromkeys(platforms))
    unknown = [platform for platform in platforms if platform not in PLATFORMS]
    if unknown or not platforms:
        names = ", ".join(map(repr, PLATFORMS))
        what = f"{unknown[0]!r}, which is not one" if unknown else "empty"
        raise ValueError(f"platforms is {what}: name one or more of {names}")
    return platforms


def _check_exportable(program: Program) -> None:
    step, outer = program.names
    if program.fused.callbacks:
        raise ValueError(
            f"this metagradient cannot be exported: {step} or {outer} calls the host "
            "(jax.debug.print, jax.debug.callback, jax.pure_callback), and a file holds no Python "
            "functions. Take the calls out of what is exported."
        )
    if program.captured.are_traced:
        raise ValueError(
            f"this metagradient cannot be exported: {step} or {outer} closes over a traced value. "
            "Lower it outside of jax.jit, or pass that value in meta, the state or the batches."
        )


def array_bytes(array: np.ndarray) -> np.ndarray:
    """The bytes of an array; not copied if it is contiguous."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)
