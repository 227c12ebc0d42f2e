"""A streamed run that is written to a file and loaded again."""

import collections
import os

import jax
import jax.numpy as jnp
import numpy as np
from streamed import plans

import metagrad

ROWS = np.random.default_rng(0).normal(size=(200, 2))
Info = collections.namedtuple("Info", "loss seen")
LENGTH, STEPS, LONG = 3, 8, 30
EVERYTHING = ("meta", "state", "batches")
WEIGHTS = (1.0, 1.1, 0.1, 0.05)


def step(state, meta, batch):
    def loss(w):
        return jnp.sum(meta["weight"] * jnp.tanh(w * batch["x"]) ** 2) + jnp.mean((ROWS @ w) ** 2)

    noise = jax.random.normal(jax.random.fold_in(state["key"], state["n"]), (2,))
    w = state["w"] - meta["rate"] * metagrad.grad(loss)(state["w"]) + 0.01 * noise
    new = {**state, "w": w, "n": state["n"] + batch["one"]}
    return new, Info(loss(w), [batch["x"], {"none": None}])


def outer(state, target):
    factor = jnp.linalg.cholesky(jnp.eye(2) + jnp.outer(state["w"], state["w"]))
    error = jnp.sum((state["w"] - target) ** 2)
    return error + factor[1, 0], {"error": error, "norm": "squared"}


def vector(state, target):
    return (state["w"] - target) ** 2, {"error": jnp.sum(state["w"]), "norm": "none"}


def arguments(steps=STEPS):
    state = {"w": np.ones(2), "n": 0, "key": jax.random.key(7), "name": "sgd", "act": jax.nn.relu}
    x = np.random.default_rng(3).normal(size=(steps, 2))
    batches = {"x": x, "one": np.ones(steps, np.int32)}
    return state, {"rate": 0.1, "weight": np.float64(2.0)}, batches, 0.5


def metagradient(of=outer, wrt=EVERYTHING, ad="auto", **options):
    compiled = metagrad.compile(step, has_aux=True, ad=ad)
    return compiled.metagradient(of, has_aux=True, wrt=wrt, runtime="streamed", **options)


def exported(path, mg, *, steps=STEPS, platforms=("cpu",), **plan):
    """A compiled metagradient, and what its file gives."""
    plan = {"length": LENGTH, "tiers": ("host", "device")} | plan
    compiled = plans.compiled(mg, *arguments(steps), **plan)
    assert compiled.export(path, platforms=platforms) == os.path.getsize(path)
    return compiled, metagrad.load(path)
