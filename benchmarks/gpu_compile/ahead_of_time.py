"""Compiling for an NVIDIA GPU on a machine that has none.

XLA:GPU needs three things to compile, and a device is not among them: JAX's CUDA plugin, `ptxas`,
and a description of the device (its *target config*), which is a text file of OpenXLA's.
`compile_for` is what `jax.jit(f).lower(...).compile()` is elsewhere. Nothing can be run, so nothing
is autotuned: XLA takes the tiling of a product, and whether a library computes it, from its cost
model, and may choose otherwise on the device itself.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax

CONFIG_VARIABLE = "METAGRAD_GPU_TARGET_CONFIG"

WHERE = (
    "It is the file xla/tools/hlo_opt/gpu_specs/h100_sxm.txtpb of OpenXLA "
    "(https://github.com/openxla/xla), which is not a part of this project. Name it with "
    f"--target-config FILE or in the variable {CONFIG_VARIABLE}."
)

EXTRA = "pip install 'metagrad[gpu-compile]', with Python 3.12 or 3.13"


class NotPossible(Exception):
    """Why nothing can be compiled here, and what to do."""


class Ready(NamedTuple):
    """A program that was compiled.

    Attributes:
      compiled: as of `jax.stages`.
      stablehlo: what JAX gave XLA, as text.
      lowering_seconds, xla_seconds: what JAX's lowering and XLA took.
    """

    compiled: jax.stages.Compiled
    stablehlo: str
    lowering_seconds: float
    xla_seconds: float


def environment() -> dict[str, str]:
    """The environment for a process that compiles.

    Raises:
      NotPossible: the plugin or ptxas is missing.
    """
    if importlib.util.find_spec("jax_plugins.xla_cuda12") is None:
        raise NotPossible(f"JAX's CUDA plugin is not installed: {EXTRA}")
    path = os.environ.get("PATH", "")
    if shutil.which("ptxas") is None:
        folder = _ptxas_of_a_wheel()
        if folder is None:
            raise NotPossible(f"there is no ptxas: install CUDA, or {EXTRA}")
        path = f"{folder}{os.pathsep}{path}"
    return os.environ | {
        "PATH": path,
        # The process's own device is a CPU, whatever plugins there are.
        "JAX_PLATFORMS": "cpu",
        # The plugin looks for libraries that only a run needs.
        "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1",
        "METAGRAD_CACHE": "0",
    }


def _ptxas_of_a_wheel() -> Path | None:
    """The folder of the ptxas of the wheel nvidia-cuda-nvcc-cu12, if it is installed."""
    try:
        spec = importlib.util.find_spec("nvidia.cuda_nvcc")
    except ModuleNotFoundError:
        return None
    folders = [] if spec is None else list(spec.submodule_search_locations or ())
    return next((bins for folder in folders if (bins := Path(folder) / "bin").is_dir()), None)


def read_target_config(path: Path | None) -> Path:
    """The file that describes the device.

    Raises:
      NotPossible: it is not named, or not there.
    """
    named = path or (Path(value) if (value := os.environ.get(CONFIG_VARIABLE)) else None)
    if named is None:
        raise NotPossible(f"The description of the device to compile for is not named. {WHERE}")
    if not named.is_file():
        raise NotPossible(f"{named} is not there. {WHERE}")
    return named


def sharding(target_config: str) -> jax.sharding.Sharding:
    """The one device that a target config describes, to compile for.

    Args:
      target_config: the text of the file.
    """
    from jax.experimental import topologies

    described = topologies.get_topology_desc(
        platform="cuda", topology_name="", topology="1x1x1", target_config=target_config
    )
    return jax.sharding.SingleDeviceSharding(described.devices[0])


def compile_for(device: jax.sharding.Sharding, function: Callable, arguments: Any) -> Ready:
    """Compiles a function for a device that is not there.

    Args:
      device: as of `sharding`.
      function: of the arguments.
      arguments: pytrees of `jax.ShapeDtypeStruct`.
    """
    start = time.perf_counter()
    lowered = (
        jax.jit(function, in_shardings=device, out_shardings=device)
        .trace(*arguments)
        .lower(lowering_platforms=("cuda",))
    )
    middle = time.perf_counter()
    compiled = lowered.compile()
    end = time.perf_counter()
    return Ready(compiled, lowered.as_text(), middle - start, end - middle)
