"""The JSON record of a benchmark: the results and where they come from, enough to run it again."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import jax

from metagrad.compiler.enzyme import library

PACKAGES = ("metagrad", "jax", "jaxlib", "optax", "equinox", "numpy")


ROOT = Path(__file__).parents[1]


def provenance(command: str) -> dict[str, Any]:
    """Machine, versions, commit, date, XLA's flags and the command line.

    Paths in the tree are written as relative ones.
    """
    return {
        "command": command.replace(f"{ROOT}/", ""),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "device": {
            "platform": jax.default_backend(),
            "name": device_name(),
            "cores": len(os.sched_getaffinity(0)),
        },
        "versions": {"python": platform.python_version()}
        | {name: _version(name) for name in PACKAGES}
        # enzyme-ad's library need not be an installed package. The second word is the version, or
        # the digest of a library that is named by hand.
        | {"enzyme-ad": library.identity().split()[1]},
    }


def device_name() -> str:
    """What the default device calls itself; for a CPU, what the operating system calls it."""
    device = jax.devices()[0]
    if device.platform != "cpu":
        return device.device_kind
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")),
        platform.machine(),
    )


def write(path: Path, record: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1, default=str) + "\n")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    git = lambda *words: subprocess.run(
        ["git", *words], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
    ).stdout.strip()
    try:
        # Results of an earlier run do not make the sources different.
        changed = git("status", "--porcelain", "--", ":/", ":(exclude)results")
        return git("rev-parse", "HEAD") + (" with changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None
