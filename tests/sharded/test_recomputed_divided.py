"""remat="blocks" on several devices: the numbers of one."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import metagrad


def block(x, w):
    return x + jnp.tanh(jnp.sin(x @ w) @ w.T) * jnp.cos(x)


def apply(ws, x):
    for w in ws:
        x = block(x, w)
    return x


@metagrad.compile
def step(p, rate, x):
    g = metagrad.grad(lambda p: jnp.mean(apply(p, x) ** 2))(p)
    return jax.tree.map(lambda a, g: a - rate * g, p, g)


def test_examples_divided_among_devices():
    random = np.random.default_rng(0)
    p = [jnp.asarray(random.normal(size=(4, 4)) / 2, jnp.float32) for _ in range(3)]
    rate, batches = jnp.float32(0.1), jnp.asarray(random.normal(size=(2, 8, 4)), jnp.float32)
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    divided = jax.device_put(batches, NamedSharding(mesh, P(None, "data")))
    replicated = jax.device_put((p, rate), NamedSharding(mesh, P()))

    def metagradient():
        return step.metagradient(lambda p: jnp.sum(p[0] ** 2), ("meta", "state"), remat="blocks")

    mg = metagradient()
    one = mg(p, rate, batches)
    # A program for several devices, and the program for one with arrays on several.
    for other in (metagradient(), mg):
        many = other(*replicated, divided)
        for a, b in zip(jax.tree.leaves(many.grad), jax.tree.leaves(one.grad), strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)
