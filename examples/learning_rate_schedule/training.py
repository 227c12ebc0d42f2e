"""The training run: a small tanh network on scikit-learn's digits, SGD with momentum.

`step` is what a user brings: it takes a learning rate, and knows nothing of schedules.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import optax

import metagrad
from metagrad.demo import model

BATCH = 50
MOMENTUM = optax.trace(0.9)


def loss(params, image, label):
    return jnp.mean(model.losses(params, image, label))


def initial(key):
    params = model.initial(key)
    return params, MOMENTUM.init(params)


def step(state, rate, batch, grad=metagrad.grad):
    params, momentum = state
    direction, momentum = MOMENTUM.update(grad(loss)(params, *batch), momentum)
    return jax.tree.map(lambda p, d: p - rate * d, params, direction), momentum


def outer(state, image, label):
    """The loss on the validation part, which the schedule is to make low."""
    return loss(state[0], image, label)


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["train", "validation", "test"],
    meta_fields=["steps"],
)
@dataclasses.dataclass(frozen=True)
class Task:
    """The data of one split, (images, labels) of each part, and how many steps a run has."""

    train: tuple
    validation: tuple
    test: tuple
    steps: int

    def draw(self, key):
        """Initial parameters and the order of the examples, [steps, BATCH], for one run."""
        of_params, of_order = jax.random.split(key)
        count = len(self.train[1])
        epochs = jax.random.split(of_order, -(-self.steps * BATCH // count))
        order = jax.vmap(lambda k: jax.random.permutation(k, count))(epochs).ravel()
        return initial(of_params), order[: self.steps * BATCH].reshape(self.steps, BATCH)

    def problem(self, round, key):
        """What `metagrad.descent` asks for."""
        state, order = self.draw(key)
        image, label = self.train
        return state, (image[order], label[order]), *self.validation

    def run(self, rates, key):
        """A plain training run with a rate for each step: its losses and test accuracy."""
        state, order = self.draw(key)

        def advance(state, at):
            rate, rows = at
            batch = self.train[0][rows], self.train[1][rows]
            return step(state, rate, batch, jax.grad), None

        return self.scores(jax.lax.scan(advance, state, (rates, order))[0][0])

    def run_with(self, optimizer, key):
        """The same with an optimiser of optax, which sees to its rate itself."""
        (params, _), order = self.draw(key)

        def advance(state, rows):
            params, memory = state
            batch = self.train[0][rows], self.train[1][rows]
            value, gradient = jax.value_and_grad(loss)(params, *batch)
            updates, memory = optimizer.update(gradient, memory, params, value=value)
            return (optax.apply_updates(params, updates), memory), None

        optimizer = optax.with_extra_args_support(optimizer)
        start = params, optimizer.init(params)
        return self.scores(jax.lax.scan(advance, start, order)[0][0])

    def scores(self, params):
        return {
            "validation loss": loss(params, *self.validation),
            "test loss": loss(params, *self.test),
            "test accuracy": model.accuracy(params, *self.test),
        }
