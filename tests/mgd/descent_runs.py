"""A small run that the tests of descent share: weighted linear regression with momentum."""

import operator

import jax
import jax.numpy as jnp

import metagrad

EXAMPLES, FEATURES, STEPS, BATCH = 12, 3, 8, 4


def inner_loss(w, meta, batch):
    x, y, i = batch
    return jnp.mean(meta["weight"][i] * jnp.tanh(x @ w - y) ** 2)


def advance(gradient_of, state, meta, batch):
    """One step, with inner gradients by `gradient_of`: metagrad's or JAX's."""
    velocity = 0.9 * state["velocity"] + gradient_of(inner_loss)(state["w"], meta, batch)
    rate = jnp.exp(meta["log_rate"])
    return {"w": state["w"] - rate * velocity, "velocity": velocity}


def step(state, meta, batch):
    return advance(metagrad.grad, state, meta, batch)


def outer(state, x, y):
    return jnp.mean((x @ state["w"] - y) ** 2)


def meta0():
    return {"weight": jnp.ones(EXAMPLES), "log_rate": jnp.asarray(-1.5)}


def draw(key):
    """(x, y, validation x, validation y, order of the batches): data with noise."""
    keys = jax.random.split(key, 4)
    truth = jnp.arange(1.0, FEATURES + 1)
    x = jax.random.normal(keys[0], (EXAMPLES, FEATURES))
    y = x @ truth + jax.random.normal(keys[1], (EXAMPLES,))
    clean = jax.random.normal(keys[2], (6, FEATURES))
    order = jax.random.randint(keys[3], (STEPS, BATCH), 0, EXAMPLES)
    return x, y, clean, clean @ truth, order


def problem(round, key):
    x, y, clean, target, order = draw(key)
    zeros = jnp.zeros(FEATURES)
    return {"w": zeros, "velocity": zeros}, (x[order], y[order], order), clean, target


def unrolled(meta, state, batches, *outer_args):
    """The run in plain JAX: the oracle."""
    for t in range(STEPS):
        state = advance(jax.grad, state, meta, jax.tree.map(operator.itemgetter(t), batches))
    return outer(state, *outer_args)
