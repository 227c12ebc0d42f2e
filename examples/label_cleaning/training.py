"""The training run: a small tanh network on scikit-learn's digits with weights of the examples."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import metagrad
from metagrad.demo import data, label_noise, model

BATCH, STEPS = 50, 200
# The rate falls to zero: at a constant rate the examples of the last batches outweigh the others,
# in the run and in its metagradient.
OPTIMIZER = optax.sgd(optax.cosine_decay_schedule(0.05, STEPS), momentum=0.9)


def step(state, weights, batch, grad=metagrad.grad):
    """A user's step: it reads the weights of the examples of its batch."""
    params, memory = state
    image, label, rows = batch
    loss = lambda params: jnp.mean(weights[rows] * model.losses(params, image, label))
    updates, memory = OPTIMIZER.update(grad(loss)(params), memory, params)
    return optax.apply_updates(params, updates), memory


def outer(state, image, label):
    """The loss on the validation part, whose labels are right."""
    return jnp.mean(model.losses(state[0], image, label))


class Task(NamedTuple):
    """Data with wrong labels in the training part.

    Attributes:
      train, validation, test: (images [n, 64], labels [n]) each.
      wrong: bool [n], where the training labels are wrong.
    """

    train: tuple
    validation: tuple
    test: tuple
    wrong: np.ndarray

    def draw(self, key):
        """Initial parameters and the rows of each batch, [STEPS, BATCH]."""
        of_params, of_order = jax.random.split(key)
        count = len(self.train[1])
        epochs = jax.random.split(of_order, -(-STEPS * BATCH // count))
        rows = jax.vmap(lambda k: jax.random.permutation(k, count))(epochs).ravel()
        params = model.initial(of_params)
        return (params, OPTIMIZER.init(params)), rows[: STEPS * BATCH].reshape(STEPS, BATCH)

    def problem(self, round, key):
        """What `metagrad.descent` asks for."""
        state, rows = self.draw(key)
        image, label = self.train
        return state, (image[rows], label[rows], rows), *self.validation

    def params(self, weights, key):
        """The parameters that a plain training run ends with."""
        state, rows = self.draw(key)

        def advance(state, rows):
            batch = self.train[0][rows], self.train[1][rows], rows
            return step(state, weights, batch, jax.grad), None

        return jax.lax.scan(advance, state, rows)[0][0]


@jax.jit
def test_scores(task, weights, keys):
    """Test loss and accuracy of a training with these weights, means over runs."""

    def one(key):
        params = task.params(weights, key)
        return outer((params,), *task.test), model.accuracy(params, *task.test)

    return jax.tree.map(jnp.mean, jax.lax.map(one, keys))


def make_task(noise, seed, fraction=0.1):
    """Plants wrong labels in the training part.

    Args:
      noise: "systematic" (3 is taken for 8 and 9 for 4, as in the demo) or "uniform" (any other
        class).
      fraction: of the training labels.
    """
    digits = data.load(seed)
    if noise == "systematic":
        train, wrong = label_noise.plant(digits.train, seed, fraction)
    else:
        random = np.random.default_rng([seed, 3])
        count = len(digits.train.label)
        wrong = np.zeros(count, bool)
        wrong[random.choice(count, round(fraction * count), replace=False)] = True
        other = (digits.train.label + random.integers(1, 10, count)) % 10
        label = np.where(wrong, other, digits.train.label).astype(np.int32)
        train = digits.train._replace(label=label)
    parts = [tuple(map(jnp.asarray, part)) for part in (train, digits.validation, digits.test)]
    return Task(*parts, wrong)
