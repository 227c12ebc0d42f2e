"""What an example leaves beside its picture: results.json, which is there to be read."""

from __future__ import annotations

import json
import platform
import sys
from pathlib import Path
from typing import Any

import jax


def save(path: Path, command: str, settings: dict[str, Any], results: dict[str, Any]) -> None:
    """Writes what was run, on what, and what came out, with five digits of each float."""
    about = {
        "command": command,
        "python": sys.version.split()[0],
        "jax": jax.__version__,
        "machine": platform.machine(),
        "settings": settings,
    }
    rounded = jax.tree.map(lambda x: float(f"{x:.5g}") if isinstance(x, float) else x, results)
    path.write_text(json.dumps(about | rounded, indent=1) + "\n", encoding="utf-8")
