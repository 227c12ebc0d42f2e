"""Small training runs with a bit of everything.

The state has an integer counter, the metaparameters have several shapes, the data are real.
"""

import jax
import jax.numpy as jnp
import numpy as np

import metagrad

EXAMPLES, FEATURES, WIDTH = 4, 3, 5


def data(steps, dtype=None, seed=0):
    """Batches of a regression problem, a leading axis of length `steps`."""
    random = np.random.default_rng(seed)
    dtype = dtype or jnp.result_type(float)
    return {
        "x": jnp.asarray(random.normal(size=(steps, EXAMPLES, FEATURES)), dtype),
        "y": jnp.asarray(random.normal(size=(steps, EXAMPLES)), dtype),
    }


def params(dtype=None, seed=1):
    random = np.random.default_rng(seed)
    dtype = dtype or jnp.result_type(float)
    return {
        "w1": jnp.asarray(random.normal(size=(FEATURES, WIDTH)) / 2, dtype),
        "b1": jnp.asarray(random.normal(size=WIDTH) / 10, dtype),
        "w2": jnp.asarray(random.normal(size=WIDTH) / 2, dtype),
    }


def meta(dtype=None):
    dtype = dtype or jnp.result_type(float)
    return {
        "weights": jnp.linspace(0.5, 1.5, EXAMPLES, dtype=dtype),
        "rate": jnp.asarray(-1.5, dtype),
    }


def predict(p, x, activation=jnp.tanh):
    return activation(x @ p["w1"] + p["b1"]) @ p["w2"]


def loss(p, z, batch):
    """Squared error with a weight for each example."""
    return jnp.mean(z["weights"] * (predict(p, batch["x"]) - batch["y"]) ** 2)


def outer(state):
    """Squared error on data that training has not seen."""
    held_out = jax.tree.map(lambda leaf: leaf[0], data(1, state["params"]["w1"].dtype, seed=7))
    return jnp.mean((predict(state["params"], held_out["x"]) - held_out["y"]) ** 2)


def sgd(gradient=None, **options):
    """A decorated step of gradient descent.

    `gradient(params, meta, batch)` is that of `loss` by default.
    """
    gradient = gradient or metagrad.grad(loss)

    @metagrad.compile(**options)
    def step(state, z, batch):
        g = gradient(state["params"], z, batch)
        return {"params": jax.tree.map(lambda p, g: p - jnp.exp(z["rate"]) * g, state["params"], g)}

    return step


def with_optax(optimiser, loss=loss, **options):
    """A decorated step of an optax optimiser and its initial state."""
    import optax

    @metagrad.compile(**options)
    def step(state, z, batch):
        g = metagrad.grad(loss)(state["params"], z, batch)
        updates, opt = optimiser.update(g, state["opt"], state["params"])
        updates = jax.tree.map(lambda u: u * jnp.exp(z["rate"]), updates)
        return {"params": optax.apply_updates(state["params"], updates), "opt": opt}

    return step, {"params": params(), "opt": optimiser.init(params())}
