"""What `metagrad.check` takes for options and arguments, and the errors for anything else."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from metagrad.api.metagradient import Metagradient


def check_options(
    mg: Any, directions: Any, index: Any, leaf: Any, step_sizes: Any, x64: Any
) -> None:
    """Raises TypeError or ValueError for an option that `metagrad.check` does not take."""
    if not isinstance(mg, Metagradient):
        raise TypeError(
            f"metagrad.check takes a metagradient, train_step.metagradient(outer), not {mg!r}"
        )
    if not isinstance(directions, (int, np.integer)) or directions < 1:
        raise ValueError(f"directions={directions!r} is not a number of directions, 1 or more")
    if x64 not in (None, True, False):
        raise ValueError(f"x64={x64!r} is none of None, True and False")
    if leaf is not None and not isinstance(leaf, str):
        raise TypeError(f"leaf={leaf!r} is not a path, such as \"meta['rate']\"")
    if index is not None and leaf is None:
        raise ValueError(
            f"index={index!r} is an index into a leaf: name the leaf too, as in "
            "leaf=\"meta['weight']\""
        )
    if step_sizes is not None:
        sizes = np.asarray(step_sizes, float)
        if sizes.ndim != 1 or len(set(sizes.tolist())) < 4 or not np.all(sizes > 0):
            raise ValueError(
                f"step_sizes={step_sizes!r} must be at least four different positive numbers: one "
                "difference alone says nothing"
            )


def check_values(arguments: tuple) -> None:
    """Raises TypeError for an argument of the run that has no value."""
    for name, tree in zip(("state", "meta", "batches", "outer_args"), arguments):
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
            if isinstance(leaf, (jax.core.Tracer, jax.ShapeDtypeStruct)):
                raise TypeError(
                    f"{name}{jax.tree_util.keystr(path)} has no value (it is a "
                    f"{type(leaf).__name__}). metagrad.check runs the training many times: call it "
                    "with arrays, outside of jax.jit."
                )
