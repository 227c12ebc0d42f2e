"""Reads an exported run. Neither the compiler nor Enzyme has a part in it."""

from __future__ import annotations

import functools
import math
import os
from typing import Any

import jax
import numpy as np

from metagrad.api import run_description, stored_plan, streamed_description
from metagrad.api.kernel_types import kernel_types
from metagrad.api.loaded import Loaded
from metagrad.api.loaded_file import FileContents
from metagrad.api.loaded_stream import LoadedStream
from metagrad.api.own_settings import lowered_with
from metagrad.api.progress import ProgressOption, check_progress
from metagrad.api.run_options import StreamOptions, check_run_options
from metagrad.frontend.dtypes import is_float
from metagrad.runtime.exported import avals, container, programs
from metagrad.runtime.exported.container import Container, InvalidFile
from metagrad.runtime.exported.fields import Fields
from metagrad.runtime.exported.programs import StoredProgram


def load(
    path: str | os.PathLike,
    *,
    progress: ProgressOption = None,
    resume_dir: str | os.PathLike | None = None,
    save_every: float = 60.0,
    check_nans: bool | None = None,
) -> Loaded | LoadedStream:
    """Reads a file that `Compiled.export` or `StreamedCompiled.export` wrote.

    Neither Enzyme nor the functions that the run was made of are needed. Every Python and JAX that
    metagrad supports reads it, older or newer than what wrote it.

    The whole file is read and checked. Its programs are parsed in a process of their own, and hold
    nothing but arithmetic: no calls of the host, and of libraries only linear algebra and random
    bits. The checksums find damage, and not who wrote a file: what a program computes is its
    author's say.

    Args:
      path: of the file.
      progress, resume_dir, save_every, check_nans: of a streamed run, as in
        `TrainStep.metagradient`. Where a NaN began is not looked for. Whether replays are compared
        (`verify`) is a part of the programs.

    Returns:
      The run, to be called as run(state0, meta, batches, *outer_args): a `Loaded`, or a
      `LoadedStream` if the run is streamed.

    Raises:
      InvalidFile: the file is not an exported run, is damaged, of a newer format, or holds what it
        may not. (A ValueError.)
      OSError: the file cannot be read.
      TypeError, ValueError: an option is not one of the above, or is given for a fused run.
    """
    check_progress(progress)
    check_run_options("auto", resume_dir, save_every, None)
    file = container.read(path)
    reload = functools.partial(
        load,
        path,
        progress=progress,
        resume_dir=resume_dir,
        save_every=save_every,
        check_nans=check_nans,
    )
    try:
        contents = Fields(file.contents, "the manifest")
        if "streamed" in contents:
            of_run = StreamOptions(None, check_nans, progress, resume_dir, save_every, None)
            return _streamed(file, contents, of_run, reload)
        fused = _fused(file, contents, reload)
    except (ValueError, TypeError, OverflowError, MemoryError) as error:
        raise InvalidFile(path, str(error) or type(error).__name__) from None
    _check_fused_options(path, progress=progress, resume_dir=resume_dir, check_nans=check_nans)
    return fused


def _check_fused_options(path: str | os.PathLike, **options: Any) -> None:
    for name, value in options.items():
        if value is not None:
            raise ValueError(
                f"{name}={value!r} is for streamed runs, and {os.fspath(path)} holds a fused one: "
                "leave it out, or export the metagradient with batches that are a Stream"
            )


def _fused(file: Container, contents: Fields, reload: Any) -> Loaded:
    plan = stored_plan.any_from_json(contents.object("plan"), file.payloads)
    # In older files all steps are differentiated.
    steps = contents.integer("steps", plan.steps) if "steps" in contents else plan.steps
    parts = _parts(file, contents, steps, reload)
    program = _program(parts.stored, "fused")
    value = _value(program)
    taken = [*parts.described.inputs, *parts.captured]
    _check_types("fused", program, taken, parts.described.outputs(value))
    return Loaded(parts, plan)


def _streamed(
    file: Container, contents: Fields, options: StreamOptions, reload: Any
) -> LoadedStream:
    plan = streamed_description.plan_from_json(contents, file.payloads)
    segment = streamed_description.segment_from_json(contents, plan)
    parts = _parts(file, contents, plan.steps, reload)
    signature = parts.described.own_signature
    layout = streamed_description.layout_from_json(contents, signature)
    value = _value(_program(parts.stored, "outer_vjp"))
    types = kernel_types(signature, layout, segment, value, parts.captured)
    for name, (inputs, outputs) in types.items():
        _check_types(name, _program(parts.stored, name), inputs, outputs)
    return LoadedStream(parts, plan, segment, layout, options)


def _parts(file: Container, contents: Fields, steps: int, reload: Any) -> FileContents:
    described = run_description.from_json(contents, steps)
    captured = _captured(contents, file)
    with lowered_with(described.x64):
        stored = programs.from_payloads(contents.object("programs"), file.payloads)
    return FileContents(file, described, captured, stored, reload)


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


def _program(stored: dict[str, StoredProgram], name: str) -> StoredProgram:
    if name not in stored:
        raise ValueError(f"it has no program {name!r}")
    return stored[name]


def _value(program: StoredProgram) -> jax.ShapeDtypeStruct:
    """Shape and dtype of the outer function's value: a number, or a vector of them."""
    if not program.outputs or len(program.outputs[0].shape) > 1 or not is_float(program.outputs[0]):
        raise ValueError("its program gives no value")
    return program.outputs[0]


def _check_types(name: str, program: StoredProgram, inputs: Any, outputs: Any) -> None:
    """Compares what a program takes and gives with the trees of arguments and results."""
    types = lambda values: [(x.shape, x.dtype) for x in values]
    if types(program.inputs) != types(inputs):
        raise ValueError(f"its program {name!r} does not take the arguments that it says")
    if types(program.outputs) != types(outputs):
        raise ValueError(f"its program {name!r} does not give the results that it says")
