"""A small training run for tests that start processes: few leaves, so that it compiles fast."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

WIDTH, BATCH, STEPS, EXAMPLES = 8, 8, 7, 12


def make_step(grad, entries=lambda array, index: array[index]):
    """Momentum on weighted examples, with aux. `entries` takes the weights of examples."""

    def step(state, meta, batch):
        x, y, examples = batch

        def loss(w):
            errors = (jnp.tanh(x @ w) @ jnp.ones(WIDTH) - y) ** 2
            return jnp.mean(entries(meta["weights"], examples) * errors)

        g = grad(loss)(state["w"])
        m = 0.9 * state["m"] + g
        new = {"w": state["w"] - meta["rate"] * m, "m": m, "t": state["t"] + 1}
        return new, jnp.sum(g**2)

    return step


def outer(state, x):
    return jnp.mean(jnp.sin(x @ state["w"]))


def order():
    """[STEPS, BATCH]: the rows of each batch."""
    return np.random.default_rng(1).permutation(STEPS * BATCH).reshape(STEPS, BATCH)


def arguments():
    """(state0, meta, the rows of a dataset, held out), on the host; f64."""
    random = np.random.default_rng(0)
    state = {
        "w": random.normal(size=(WIDTH, WIDTH)),
        "m": np.zeros((WIDTH, WIDTH)),
        "t": np.int32(0),
    }
    meta = {"weights": np.linspace(0.5, 1.5, EXAMPLES), "rate": np.float64(0.1)}
    rows = STEPS * BATCH
    data = (
        random.normal(size=(rows, WIDTH)),
        random.normal(size=rows),
        random.integers(0, EXAMPLES, size=rows),
    )
    return state, meta, data, random.normal(size=(BATCH, WIDTH))
