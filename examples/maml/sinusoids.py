"""Sinusoids, as in Finn, Abbeel, Levine 2017, section 5.1.

Amplitude 0.1 to 5, phase 0 to pi, inputs from -5 to 5; a network of two hidden layers of 40 relus;
inner steps of SGD with rate 0.01. Theirs is learned through one inner step in 70,000 outer steps of
25 tasks; this one through five, in fewer.
"""

import jax
import jax.numpy as jnp

from examples.maml.training import Setting

WIDTHS = 1, 40, 40, 1


def initial(key, widths=WIDTHS):
    """Uniform weights of variance 1 / (3 fan-in), small enough for inner steps from the start."""
    keys = jax.random.split(key, len(widths) - 1)
    return [
        {"w": jax.random.uniform(k, (a, b), minval=-(a**-0.5), maxval=a**-0.5), "b": jnp.zeros(b)}
        for k, a, b in zip(keys, widths, widths[1:])
    ]


def network(params, x):
    *hidden, last = params
    for layer in hidden:
        x = jax.nn.relu(x @ layer["w"] + layer["b"])
    return x @ last["w"] + last["b"]


def loss(params, x, y):
    return jnp.mean((network(params, x) - y) ** 2)


def points(key, amplitude, phase, count):
    x = jax.random.uniform(key, (count, 1), minval=-5.0, maxval=5.0)
    return x, amplitude * jnp.sin(x - phase)


def draw(key, shots, queries=10):
    """(support, query) of one sinusoid."""
    of_amplitude, of_phase, of_support, of_query = jax.random.split(key, 4)
    amplitude = jax.random.uniform(of_amplitude, minval=0.1, maxval=5.0)
    phase = jax.random.uniform(of_phase, maxval=jnp.pi)
    return points(of_support, amplitude, phase, shots), points(of_query, amplitude, phase, queries)


def of_all_tasks(key):
    """A batch of points, each ten of another sinusoid."""
    x, y = jax.vmap(lambda key: draw(key, 10)[0])(jax.random.split(key, 25))
    return x.reshape(-1, 1), y.reshape(-1, 1)


SETTING = Setting(draw, loss, rate=0.01, steps=5, tasks=25, shots=10)
