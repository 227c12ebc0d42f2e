"""Writes an exported run: one file that `metagrad.load` runs, without Enzyme."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import jax
import jaxlib
import numpy as np

from metagrad.api import run_description, stored_plan, streamed_description
from metagrad.api.own_settings import lowered_with
from metagrad.api.program import Program
from metagrad.api.streamed_program import StreamedProgram
from metagrad.runtime.executors.fused import FusedProgram
from metagrad.runtime.exported import artifacts, avals, container, programs
from metagrad.runtime.exported.programs import PLATFORMS, StoredProgram
from metagrad.runtime.schedules.segment_tables import KERNELS
from metagrad.runtime.schedules.two_level import TwoLevelPlan
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
    with lowered_with(program.x64):
        plan, payloads = stored_plan.any_to_json(program.plan)
        described = {"plan": plan, "steps": program.steps}
        return _write(
            path, program, described, payloads, {"fused": program.fused}, platforms, overwrite
        )


def export_streamed(
    program: StreamedProgram,
    plan: TwoLevelPlan,
    path: str | os.PathLike,
    platforms: Sequence[str] = ("cpu", "cuda"),
    *,
    overwrite: bool = False,
) -> int:
    """Writes a file. See `StreamedCompiled.export`.

    Args:
      plan: of some number of steps; the programs are for its segments.

    Returns:
      The file's size in bytes.
    """
    platforms = _checked(platforms)
    with lowered_with(program.x64):
        slots = plan.segment_slots
        try:
            described, payloads = streamed_description.to_json(
                program.layout, plan, program.segment(slots)
            )
        except ValueError as error:
            raise _not_exported(error) from None
        kernels = program.kernels(slots)
        named = {name: getattr(kernels, name) for name in KERNELS}
        return _write(path, program, described, payloads, named, platforms, overwrite)


def _write(
    path: str | os.PathLike,
    program: Program | StreamedProgram,
    described: dict[str, Any],
    payloads: dict[str, np.ndarray],
    named: dict[str, FusedProgram],
    platforms: Sequence[str],
    overwrite: bool,
) -> int:
    """Writes a file of some programs, with what its kind of run says of it beside the rest."""
    _check_exportable(program, named)
    captured = [np.asarray(array) for array in program.captured.arrays_beside([])]
    described = described | run_description.to_json(
        program.signature,
        program.x64,
        program.names,
        {
            "metagrad": version("metagrad"),
            "jax": jax.__version__,
            "jaxlib": jaxlib.__version__,
            "stablehlo": artifacts.VERSION,
        },
    )
    described["notes"] = list(program.notes)
    described["captured"] = [avals.to_json(array) for array in captured]
    modules: dict[str, dict[str, bytes]] = {name: {} for name in named}
    for platform in platforms:
        stage(f"lowering for {platform}")
        for name, each in named.items():
            modules[name][platform] = each.bytecode(platform)
    stored = {
        name: StoredProgram(each.inputs, each.outputs, modules[name])
        for name, each in named.items()
    }
    stage("examining the programs")
    try:
        described["programs"], artifact_payloads = programs.to_payloads(stored)
    except ValueError as error:
        raise _not_exported(error) from None
    arrays = {f"captured/{i}": array_bytes(array) for i, array in enumerate(captured)}
    stage("writing the file")
    return container.write(
        path, described, {**payloads, **artifact_payloads, **arrays}, overwrite=overwrite
    )


def _not_exported(reason: Exception | str) -> ValueError:
    return ValueError(f"this metagradient cannot be exported: {reason}")


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


def _check_exportable(program: Program | StreamedProgram, named: dict[str, FusedProgram]) -> None:
    step, outer = program.names
    if any(each.callbacks for each in named.values()):
        raise _not_exported(
            f"{step} or {outer} calls the host (jax.debug.print, jax.debug.callback, "
            "jax.pure_callback), and a file holds no Python functions. Take the calls out of what "
            "is exported."
        )
    if program.captured.are_traced:
        raise _not_exported(
            f"{step} or {outer} closes over a traced value. Lower it outside of jax.jit, or pass "
            "that value in meta, the state or the batches."
        )


def array_bytes(array: np.ndarray) -> np.ndarray:
    """The bytes of an array; not copied if it is contiguous."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)
