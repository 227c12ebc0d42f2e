"""Arrays with a few words about them, in a format that anything reads: npz or safetensors.

Neither can hold code: arrays are loaded without pickle.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

METADATA = "metadata"


def save(path: str | os.PathLike, arrays: dict[str, np.ndarray], metadata: dict[str, Any]) -> None:
    """Writes arrays and metadata; the suffix of `path` says in which format.

    Args:
      path: ends in .npz or .safetensors.
      arrays: by name.
      metadata: what json can hold.

    Raises:
      ValueError: another suffix.
      ImportError: the package safetensors is not installed.
    """
    text = json.dumps(metadata)
    # Written beside the file and then moved, so that a kill leaves no half of one.
    part = Path(path).with_name(f".{Path(path).name}.part")
    if _is_npz(path):
        with open(part, "wb") as file:
            np.savez(file, allow_pickle=False, **_named(arrays, text))
    else:
        contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        _safetensors().save_file(contiguous, part, metadata={METADATA: text})
    part.replace(path)


def load(path: str | os.PathLike) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """What `save` wrote: (arrays by name, metadata).

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: another suffix, or not such a file.
      ImportError: the package safetensors is not installed.
    """
    if _is_npz(path):
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        text = str(arrays.pop(METADATA, ""))
    else:
        _safetensors()
        from safetensors import safe_open

        with safe_open(path, framework="numpy") as file:
            names = list(file.keys())
            arrays = {name: file.get_tensor(name) for name in names}
            text = (file.metadata() or {}).get(METADATA, "")
    if not text:
        raise ValueError(f"{os.fspath(path)} has no metadata of metagrad.attribution")
    return arrays, json.loads(text)


def _named(arrays: dict[str, np.ndarray], text: str) -> dict[str, Any]:
    return arrays | {METADATA: np.array(text)}


def _is_npz(path: str | os.PathLike) -> bool:
    suffix = Path(path).suffix
    if suffix not in (".npz", ".safetensors"):
        raise ValueError(f"path={os.fspath(path)!r} must end in .npz or .safetensors")
    return suffix == ".npz"


def _safetensors() -> Any:
    try:
        import safetensors.numpy
    except ImportError as error:
        raise ImportError(
            'the format .safetensors needs a package: pip install "metagrad[examples]", or '
            "pip install safetensors. The format .npz needs none."
        ) from error
    return safetensors.numpy
