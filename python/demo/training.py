"""The training run: its state, its metaparameters, and one Adam step.

The step is decorated with `metagrad.compile`. The metaparameters are {"weight": one per training
example [n], "log_rate": the logarithm of the learning rate of each step [T]}.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import metagrad
from metagrad.demo import model

# eps_root is inside Adam's square root. Without it the metagradient is NaN, in JAX as here, though
# the training run itself is well-behaved: some pixels are zero in every image, so their kernel rows
# have a gradient and a second moment of exactly zero, where the square root has an infinite slope.
ADAM = optax.scale_by_adam(eps_root=1e-8)


class State(NamedTuple):
    params: Any
    adam: optax.ScaleByAdamState  # its step counter is the integer leaf of the state


def initial(key):
    params = model.initial(key)
    return State(params, ADAM.init(params))


def training_loss(params, meta, batch):
    return jnp.mean(
        meta["weight"][batch["example"]] * model.losses(params, batch["image"], batch["label"])
    )


def adam_step(grad, state, meta, batch):
    """One step with inner gradients by `grad`.

    That is `metagrad.grad`, or `jax.grad` for the reference that the demo is checked against.
    """
    direction, adam = ADAM.update(grad(training_loss)(state.params, meta, batch), state.adam)
    rate = jnp.exp(meta["log_rate"][state.adam.count])
    return State(
        jax.tree.map(lambda param, along: param - rate * along, state.params, direction), adam
    )


@metagrad.compile
def train_step(state, meta, batch):
    return adam_step(metagrad.grad, state, meta, batch)


def validation_loss(state, image, label):
    """The outer function: what the metagradient is the gradient of."""
    return jnp.mean(model.losses(state.params, image, label))


@jax.jit
def train(state, meta, batches, validation, test):
    """Plain training, no metagradient.

    Returns the final state and the validation and test loss after each step, [T] each.
    """

    def step(state, batch):
        state = adam_step(jax.grad, state, meta, batch)
        return state, (validation_loss(state, *validation), validation_loss(state, *test))

    state, curves = jax.lax.scan(step, state, batches)
    return state, *curves
