"""Costs are measured once for each step and machine, and kept on disk.

They are JSON files in the part "costs" of the user's cache folder (`runtime.user_cache`), under a
digest of the step's program, the device, the number of threads and JAX's version. A file that is
damaged counts as none.
"""

from __future__ import annotations

import dataclasses
import json
import os
import warnings
from collections.abc import Callable

import jax

from metagrad.runtime import user_cache
from metagrad.runtime.schedules.costs import Costs, Sizes
from metagrad.runtime.schedules.measured_costs import Probe, measure


def machine() -> tuple[str, ...]:
    """What costs depend on beside the program: the device, its threads, JAX's version."""
    device = jax.devices()[0]
    threads = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return device.platform, device.device_kind, f"{threads} threads", jax.__version__


def kept_costs(fingerprint: str) -> Costs | None:
    """The costs that were kept for a step, or None: there are none, or they are damaged.

    Args:
      fingerprint: a text that is the same for the same program and for no other.
    """
    where = user_cache.folder("costs")
    if where is None:
        return None
    try:
        return Costs.from_jsonable(json.loads((where / _name(fingerprint)).read_bytes()))
    except (OSError, ValueError):
        return None


def keep_costs(fingerprint: str, costs: Costs) -> None:
    """Keeps the costs of a step. Where that is not possible there is a warning."""
    where = user_cache.folder("costs")
    if where is None:
        return
    try:
        user_cache.write_file(where, _name(fingerprint), json.dumps(costs.jsonable()).encode())
    except OSError as error:
        warnings.warn(
            f"the costs of this step cannot be kept in {where} ({error.strerror or error}), so "
            "they are measured again next time. Name another folder in METAGRAD_CACHE_DIR, or "
            "switch the cache off with METAGRAD_CACHE=0.",
            RuntimeWarning,
            stacklevel=2,
        )


def measured_costs(fingerprint: str, make_probe: Callable[[], Probe], sizes: Sizes) -> Costs:
    """The costs of a step: those that were kept, else measured and kept.

    Args:
      fingerprint: a text that is the same for the same program and for no other.
      make_probe: compiles the probe; not called if costs were kept.
      sizes: bytes, as they are now. The workspace is that of the probe.
    """
    costs = kept_costs(fingerprint)
    if costs is None:
        probe = make_probe()
        costs = measure(probe, dataclasses.replace(sizes, workspace=probe.workspace))
        keep_costs(fingerprint, costs)
    sizes = dataclasses.replace(sizes, workspace=costs.sizes.workspace)
    return dataclasses.replace(costs, sizes=sizes)


def _name(fingerprint: str) -> str:
    return user_cache.key("costs", fingerprint, *machine()) + ".json"
