"""Runs for the tests of `metagrad.check`, and what it says of them."""

import jax.numpy as jnp

import metagrad

START = jnp.array([1.0, 2.0])
DATA = jnp.linspace(0.5, 1.5, 6).reshape(3, 2)


def descend(w, z, x):
    """One step on a smooth loss."""
    return w - z["rate"] * metagrad.grad(lambda w: jnp.sum(z["weight"] * jnp.cosh(w * x)))(w)


META = {"rate": 0.1, "weight": jnp.array([1.0, 0.5])}


def squares(w):
    return jnp.sum(w**2)


def metagradient(step=descend, outer=squares, wrt="meta", **options):
    return metagrad.compile(step).metagradient(outer, wrt, **options)


def text(report):
    """The report in one line."""
    return " ".join(str(report).split())
