"""The training run: a small transformer on Python's manual, Adam with a rate for each parameter.

The metaparameters are logarithms: of a rate for each kernel ("layer"), and of a factor for each
entry of it ("own"). A run of which only the layers' rates are learned has no "own".
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import metagrad
from examples import language_model

STEPS, BATCH, START = 24, 16, 3e-3
"""Steps of a run, pieces of a batch, and the rate that the descents start from."""
ADAM = optax.scale_by_adam(eps_root=1e-8)


def flat(params, rate=START, own=False):
    """Metaparameters under which every rate is `rate`."""
    layer = jax.tree.map(lambda p: jnp.log(jnp.asarray(rate, p.dtype)), params)
    return {"layer": layer} | ({"own": jax.tree.map(jnp.zeros_like, params)} if own else {})


def step(state, meta, pieces, grad=metagrad.grad):
    params, moments = state
    loss = lambda params: jnp.mean(language_model.losses(params, pieces))
    directions, moments = ADAM.update(grad(loss)(params), moments)
    own = meta.get("own") or jax.tree.map(lambda _: 0.0, params)
    params = jax.tree.map(
        lambda p, d, layer, own: p - jnp.exp(layer + own) * d,
        params,
        directions,
        meta["layer"],
        own,
    )
    return params, moments


def outer(state, pieces):
    """The loss on held-out pieces, which the rates are to make low."""
    return jnp.mean(language_model.losses(state[0], pieces))


class Task(NamedTuple):
    """One split of the text and one draw of initial parameters.

    Attributes:
      train, held_out, test: int32 [n, 33].
      params: the initial parameters, the same in each run: a rate belongs to one parameter.
    """

    train: np.ndarray
    held_out: np.ndarray
    test: np.ndarray
    params: Any

    def state(self, params=None):
        params = self.params if params is None else params
        return params, ADAM.init(params)

    def batches(self, key, steps=STEPS):
        rows = jax.random.randint(key, (steps, BATCH), 0, len(self.train))
        return jnp.asarray(self.train)[rows]

    def problem(self, round, key):
        """Other batches in each round, and others to hold out."""
        of_batches, of_held_out = jax.random.split(key)
        rows = jax.random.randint(of_held_out, (128,), 0, len(self.held_out))
        return self.state(), self.batches(of_batches), jnp.asarray(self.held_out)[rows]


def make(seed, sizes=(1000, 1000)):
    held_out, test = sizes
    pieces = language_model.sequences(language_model.manual(), seed)
    parts = np.split(pieces, [held_out, held_out + test])
    params = language_model.initial(jax.random.key(seed))
    return Task(parts[2], parts[0], parts[1], params)


@jax.jit
def run_with(state, meta, batches):
    """Plain training: the state at the end."""
    plain_step = lambda state, pieces: (step(state, meta, pieces, grad=jax.grad), None)
    return jax.lax.scan(plain_step, state, batches)[0]
