"""A network, and the ways to lay it out on eight devices."""

from __future__ import annotations

import collections
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

FEATURES, WIDTH, BATCH, STEPS, EXAMPLES = 16, 32, 16, 4, 40
LAYOUTS = ("data", "fsdp", "tensor", "both")
OPTIMISER = optax.adam(1e-2, eps_root=1e-4)


def network(params, x):
    for layer in ("first", "second"):
        x = jnp.tanh(x @ params[layer]["w"] + params[layer]["b"])
    return x @ params["last"]


def make_step(grad, inside=lambda x: x):
    """A step of Adam on weighted examples; `inside` is applied to the network's output."""

    def step(state, weights, batch):
        params, moments = state
        x, y, examples = batch

        def loss(params):
            errors = jnp.sum((inside(network(params, x)) - y) ** 2, -1)
            return jnp.mean(weights[examples] * errors)

        updates, moments = OPTIMISER.update(grad(loss)(params), moments, params)
        return optax.apply_updates(params, updates), moments

    return step


def outer(state, x, y):
    return jnp.mean((network(state[0], x) - y) ** 2)


def arguments(dtype: Any) -> tuple:
    """(state0, weights, batches, x, y), on the host."""
    random = np.random.default_rng(0)
    normal = lambda *shape: (random.normal(size=shape) / np.sqrt(shape[0])).astype(dtype)
    params = {
        "first": {"w": normal(FEATURES, WIDTH), "b": np.zeros(WIDTH, dtype)},
        "second": {"w": normal(WIDTH, WIDTH), "b": np.zeros(WIDTH, dtype)},
        "last": normal(WIDTH, FEATURES),
    }
    batches = (
        normal(STEPS, BATCH, FEATURES),
        normal(STEPS, BATCH, FEATURES),
        random.integers(0, EXAMPLES, size=(STEPS, BATCH)),
    )
    state = jax.tree.map(np.asarray, (params, OPTIMISER.init(params)))
    return (
        state,
        np.ones(EXAMPLES, dtype),
        batches,
        normal(BATCH, FEATURES),
        normal(BATCH, FEATURES),
    )


def mesh_of(layout: str, axes: AxisType = AxisType.Auto) -> jax.sharding.Mesh:
    shape, names = {
        "data": ((8,), ("data",)),
        "fsdp": ((8,), ("data",)),
        "tensor": ((8,), ("model",)),
        "both": ((4, 2), ("data", "model")),
    }[layout]
    return jax.make_mesh(shape, names, axis_types=len(names) * (axes,))


def state_spec(layout: str, shape: tuple[int, ...]) -> P:
    if layout == "data" or not shape:
        return P()
    if layout == "fsdp":
        return P("data")
    rows = "data" if layout == "both" else None
    return {
        (FEATURES, WIDTH): P(rows, "model"),
        (WIDTH,): P("model"),
        (WIDTH, WIDTH): P("model", rows),
        (WIDTH, FEATURES): P(rows, "model"),
    }[shape]


def place(layout: str, arguments: tuple, axes: AxisType = AxisType.Auto) -> tuple:
    """The arguments on the layout's mesh."""
    mesh = mesh_of(layout, axes)
    put = lambda x, spec: jax.device_put(x, NamedSharding(mesh, spec))
    rows = None if layout == "tensor" else "data"
    state, weights, batches, *held_out = arguments
    return (
        jax.tree.map(lambda x: put(x, state_spec(layout, np.shape(x))), state),
        put(weights, P()),
        jax.tree.map(lambda x: put(x, P(None, rows)), batches),
        *(put(x, P(rows)) for x in held_out),
    )


KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_COLLECTIVE = re.compile(rf" = .*? ({'|'.join(KINDS)})(?:-start)?\(")
_COMPUTATION = re.compile(r"^((?:ENTRY )?%?[\w.\-]+) .*\{$")


def collectives(hlo: str) -> collections.Counter[str]:
    """How many of each kind are in a program's text."""
    return collections.Counter(_COLLECTIVE.findall(hlo))


def collectives_by_computation(hlo: str) -> dict[str, collections.Counter[str]]:
    """The same for each computation that has some; the outermost one's name begins with ENTRY."""
    counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    name = ""
    for line in hlo.splitlines():
        if started := _COMPUTATION.match(line):
            name = started.group(1)
        if kind := _COLLECTIVE.search(line):
            counts[name][kind.group(1)] += 1
    return counts
