"""One small training run that many tests share, compiled once for a module."""

import jax
import jax.numpy as jnp
import numpy as np

import metagrad

LENGTH = 3
WIDTH = 6


class Data:
    """Batches by number, with a function that is called before each is read."""

    def __init__(self, steps, before=lambda t: None):
        self.steps, self.before, self.asked = steps, before, []

    def __len__(self):
        return self.steps

    def __getitem__(self, t):
        if not 0 <= t < self.steps:
            raise IndexError(t)
        self.asked.append(t)
        self.before(t)
        return batch(t)


def batch(t, seed=0):
    return {"x": np.random.default_rng([seed, t]).normal(size=(4, WIDTH)), "t": np.int32(t)}


def stacked(steps):
    return jax.tree.map(lambda *leaves: np.stack(leaves), *map(batch, range(steps)))


@metagrad.compile
def step(state, z, batch):
    loss = lambda w: jnp.mean(z["weights"] * jnp.tanh(batch["x"] @ w - 0.1 * batch["t"]) ** 2)
    g = metagrad.grad(loss)(state["w"])
    momentum = 0.9 * state["m"] + g
    return {"w": state["w"] - z["rate"] * momentum, "m": momentum, "t": state["t"] + 1}


def outer(state):
    return jnp.sum(state["w"] ** 3)


def arguments():
    state = {"w": jnp.linspace(-1.0, 1.0, WIDTH), "m": jnp.zeros(WIDTH), "t": jnp.int32(0)}
    return state, {
        "weights": jnp.linspace(0.5, 1.5, 4),
        "rate": jnp.asarray(0.2, jnp.result_type(float)),
    }


def bits(result):
    """What can be compared with `==`."""
    leaves = jax.tree.leaves(result)
    return [np.asarray(leaf).tobytes() for leaf in leaves if leaf.dtype != jax.dtypes.float0]
