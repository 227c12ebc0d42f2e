"""Digests of texts and arrays: what tells one run from another when it is resumed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import xxhash

from metagrad.runtime.executors.run_shardings import own_pieces


def digest_bytes(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def digest_arrays(arrays: Sequence[Any]) -> str:
    """Of dtypes, shapes and contents. Of arrays on several processes, of what this one has."""
    digest = xxhash.xxh3_64()
    for array in arrays:
        if jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key):
            array = jax.random.key_data(array)
        for piece in map(np.asarray, own_pieces(array)):
            digest.update(f"{piece.dtype}{piece.shape}".encode())
            digest.update(np.ascontiguousarray(piece).reshape(-1).view(np.uint8))
    return digest.hexdigest()
