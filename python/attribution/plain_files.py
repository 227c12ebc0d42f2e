"""Arrays with a few words about them, in a format that anything reads: npz or safetensors.

Neither can hold code: arrays are loaded without pickle.
"""

from __future__ import annotations

import json
import os
import zipfile
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
    arrays, text = _from_npz(path) if _is_npz(path) else _from_safetensors(path)
    if not text:
        raise ValueError(f"{os.fspath(path)} has no metadata of metagrad.attribution")
    return arrays, json.loads(text)


def _from_npz(path: str | os.PathLike) -> tuple[dict[str, np.ndarray], str]:
    try:
        # Opened here: NumPy leaves a file open that it cannot read.
        with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    # What is no zip file is taken for an array of the format .npy, or for a pickle.
    except (ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise ValueError(f"{os.fspath(path)} is damaged, or no file of the format .npz") from error
    return arrays, str(arrays.pop(METADATA, ""))


def _from_safetensors(path: str | os.PathLike) -> tuple[dict[str, np.ndarray], str]:
    _safetensors()
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            arrays = {name: file.get_tensor(name) for name in list(file.keys())}
            return arrays, (file.metadata() or {}).get(METADATA, "")
    except SafetensorError as error:
        raise ValueError(
            f"{os.fspath(path)} is damaged, or no file of the format .safetensors"
        ) from error


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
