"""What must be the same for another process to go on with a descent."""

from __future__ import annotations

import re
from typing import Any

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np

from metagrad.api.digests import digest_arrays, digest_bytes
from metagrad.diagnostics.plain_run import NAMES, plain_run
from metagrad.frontend.pytrees import is_array_leaf
from metagrad.mgd.problems import Evaluation
from metagrad.mgd.updates import Updates
from metagrad.mgd.variables import Variables
from metagrad.runtime.streams import Stream

_READABLE = 40
"""Characters of a structure that a message shows; errors have room for 60 of an item."""


def identity(
    evaluation: Evaluation, arguments: tuple, variables: Variables, update: Updates, seeds: int
) -> dict[str, str | int]:
    """The items that must be the same, by the names that an error gives them.

    Optimisers and projections are functions, so they are compared by what they do: one step from
    the start with a gradient of ones, and the projection of the start moved by ten. The program is
    compared as text, the problem by what it gives for round 0.

    Args:
      arguments: (state0, meta, batches, *outer_args) of the first seed of round 0.
    """
    mg = evaluation.mg
    floats = variables.floats
    before = update.init(floats)
    sums = jax.tree.map(lambda leaf: jnp.full_like(leaf, seeds), floats)
    step = update.step(floats, before, jnp.asarray(seeds, jnp.float32), sums)
    projected = update.projected(jax.tree.map(lambda leaf: leaf + 10, floats))
    stepped = [*jax.tree.leaves(step.floats), *_arrays(step.optimizer_state)]
    device = jax.local_devices()[0]
    return {
        "the structure of meta0": _structure(variables.start),
        "the structure of the optimizer's state": _structure(before),
        "seeds": seeds,
        "key": digest_arrays([evaluation.key]),
        "meta0": digest_arrays(_arrays(variables.start)),
        "the optimizer's first step": digest_arrays(stepped),
        "the projection": digest_arrays(jax.tree.leaves(projected)),
        "mg": _name(mg),
        "the training step or the outer function": _program(mg, arguments),
        "problem(0, key)": digest_arrays(_contents(arguments)),
        "the device": f"{device.platform} {device.device_kind}",
        "x64": str(jax.config.read("jax_enable_x64")),
        "jax": jax.__version__,
        "jaxlib": jaxlib.__version__,
    }


def _structure(tree: Any) -> str:
    """Paths, dtypes and shapes, shortened so that a message shows the beginning."""
    described = ", ".join(
        f"{jax.tree_util.keystr(path) or 'one leaf'} {_kind(leaf)}"
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
    )
    if len(described) <= _READABLE:
        return described or "empty"
    return f"{described[:_READABLE]}... {digest_bytes(described.encode())}"


def _kind(leaf: Any) -> str:
    """The type of an array; of other leaves (functions, say) what each process says alike."""
    if is_array_leaf(leaf):
        return str(jax.typeof(leaf))
    # Without the address, which a function's text has, and most objects' without one of their own.
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(leaf))


def _name(mg: Any) -> str:
    """The kind of metagradient, what it is with respect to, and what else it says of itself."""
    wrt = getattr(getattr(mg, "request", mg), "wrt", "meta")
    wrt = wrt if isinstance(wrt, str) else ", ".join(wrt)
    return f"{type(mg).__name__} wrt {wrt} {getattr(mg, 'settings', '')}".rstrip()


def _program(mg: Any, arguments: tuple) -> str:
    """A digest of the plain run's program; of the name only, where `mg` does not say its step."""
    request = getattr(mg, "request", None)
    if request is None:
        return "unknown"
    state0, meta, batches, *outer_args = arguments
    if isinstance(batches, Stream):
        batches = jax.tree.map(
            lambda aval: jax.ShapeDtypeStruct((len(arguments[2]), *aval.shape), aval.dtype),
            batches.aval,
        )
    run = plain_run(
        request.step,
        request.outer,
        (state0, meta, batches, tuple(outer_args)),
        request.step_has_aux,
        request.has_aux,
    )
    avals: dict[str, list] = {
        name: [leaf.aval for leaf in run.trees[name].leaves] for name in NAMES
    }
    captured = [*run.step.consts, *run.outer.consts]
    text = jax.jit(run.value).lower(avals | {"captured": captured}).as_text()
    return digest_bytes(f"{text} {digest_arrays(_arrays(captured))}".encode())


def _contents(arguments: tuple) -> list[Any]:
    state0, _, batches, *outer_args = arguments
    if isinstance(batches, Stream):
        order = [] if batches.order is None else [batches.order]
        batches = [*order, np.asarray(len(batches)), batches[0]]
    return _arrays((state0, batches, outer_args))


def _arrays(tree: Any) -> list[Any]:
    """The leaves as arrays: Python numbers too."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if is_array_leaf(leaf)]
    return [leaf if hasattr(leaf, "dtype") else np.asarray(leaf) for leaf in leaves]
