"""`jax_debug_nans` and `jax_debug_infs`: the FloatingPointError that they ask for.

JAX looks into each result of a compiled function and, if there is a NaN, runs the function again
op by op, to name the op. A metagradient is one program, so its own search answers: where the run,
or its reversal, has the first NaN (first_nan.py).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from metagrad.diagnostics.paths import enumerate_paths
from metagrad.frontend.dtypes import is_float
from metagrad.runtime import jax_internals


def are_on() -> bool:
    """Whether one of the two settings is on."""
    return jax_internals.setting("jax_debug_nans") or jax_internals.setting("jax_debug_infs")


@contextlib.contextmanager
def unchecked() -> Iterator[None]:
    """A context in which JAX does not look for NaNs and infinities in what it computes."""
    with jax.debug_nans(False), jax.debug_infs(False):
        yield


def check(result: Any, arguments: tuple, first_nan: Callable[[Any, tuple], None]) -> None:
    """Raises what these settings ask for.

    Args:
      result: a `Result`, or a `ResultWithAux`.
      arguments: (state0, meta, batches, outer_args).
      first_nan: `Program.first_nan`.

    Raises:
      FloatingPointError: with `jax_debug_nans`, a leaf of the result has a NaN; with
        `jax_debug_infs`, an infinity. The message names the leaves.
    """
    tests = [("a NaN", "jax_debug_nans", jnp.isnan), ("an infinity", "jax_debug_infs", jnp.isinf)]
    for what, setting, test in tests:
        if not jax_internals.setting(setting):
            continue
        with unchecked():
            paths = [
                jax.tree_util.keystr(path).removeprefix(".")
                for path, leaf in jax.tree_util.tree_flatten_with_path(result)[0]
                if is_float(leaf) and test(leaf).any()
            ]
            if paths and setting == "jax_debug_nans":
                first_nan(result, arguments)  # raises, but for a NaN in auxiliary outputs alone
        if paths:
            raise FloatingPointError(
                f"the metagradient has {what} in {enumerate_paths(paths)}. ({setting} is on.)"
            )
