"""One routine: how smooth it is, and how far metagradient descent gets on it."""

import functools
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

import metagrad
from examples.metasmoothness import digits, network

TRAIN, HELD_OUT, STEPS = 300, 400, 80
MOVED = 30
"""How many of the training images the configuration holds: 10%."""
STEP = 0.05
"""The step of the descent in each pixel, whose range is [0, 1], and the step size h."""


@functools.cache
def compiled(routine):
    """The routine's step, and the metagradient of minus the loss: one program for all seeds."""
    step = network.train_step(routine, STEPS)

    def minus_loss(state, image, label):
        return -jnp.mean(network.losses(routine, state["params"], image, label))

    return step, step.metagradient(minus_loss, progress=False)


class Problem:
    """A routine on the digits, whose configuration is the pixels of 30 training images.

    Attributes:
      data: the digits.
      train: from the images of the training set to the parameters.
      metagradient: of minus the held-out loss, with respect to the images.
      arguments: what it is called with beside the images: (state0, batches, *held out).
      images: the training images as they are, {"image": float32 [300, 8, 8]}.
      mask: 1 for the images that move, [300, 1, 1].
    """

    def __init__(self, routine, seed):
        self.routine = routine
        self.data = digits.load(TRAIN, HELD_OUT)
        step, self.metagradient = compiled(routine)
        state0 = network.state0(routine, STEPS, jax.random.key(seed))
        batches = digits.batches(self.data.train.label, STEPS, routine.batch, seed)
        self.arguments = (state0, batches, *self.data.held_out)
        self.train = metagrad.smoothness.training(
            step, state0, batches, params=lambda state: state["params"]
        )
        self.images = {"image": jnp.asarray(self.data.train.image)}
        chosen = np.random.default_rng(seed).choice(TRAIN, MOVED, replace=False)
        self.mask = np.zeros((TRAIN, 1, 1), np.float32)
        self.mask[chosen] = 1

    def loss(self, params, image, label):
        return jnp.mean(network.losses(self.routine, params, image, label))

    def outcomes(self, images):
        """After training: the held-out loss, and the accuracies on the held-out and test digits."""
        params = self.train(images)
        parts = (self.data.held_out, self.data.test)
        accuracies = [network.accuracy(self.routine, params, *part) for part in parts]
        return self.loss(params, *self.data.held_out), accuracies

    def directions(self, count, seed):
        """Directions of random signs in the images that move."""
        drawn = metagrad.smoothness.random_directions(self.images, count, seed)
        return [{"image": self.mask * each["image"]} for each in drawn]


def study(routine, seed, directions=4, rounds=15):
    """The numbers of one routine and seed, as a dictionary.

    "gain" is the logarithm of the highest held-out loss over that before, by descent; "random" the
    same by as many random steps of the same size.
    """
    begun = time.perf_counter()
    problem = Problem(routine, seed)
    smoothness = metagrad.metasmoothness(
        problem.train, problem.images, problem.directions(directions, seed), STEP
    )
    descent = descend(problem, rounds)
    losses = [-record.value for record in descent.history]
    outcomes = jax.jit(problem.outcomes)
    walk = random_walk(problem, outcomes, rounds, seed)
    return {
        "metasmoothness": smoothness.value,
        "standard_error": smoothness.standard_error,
        "undecided": float(smoothness.undecided.max()),
        "losses": losses,
        "random_losses": walk,
        "gain": float(np.log(max(losses) / losses[0])),
        "random": float(np.log(max(walk) / walk[0])),
        "accuracy_before": [float(a) for a in outcomes(problem.images)[1]],
        "accuracy_after": [float(a) for a in outcomes(descent.best.meta)[1]],
        "seconds": time.perf_counter() - begun,
    }


def descend(problem, rounds):
    """Metagradient descent by signs on minus the held-out loss, in the box [0, 1]."""
    state0, batches, *held_out = problem.arguments
    by_signs = optax.stateless(
        lambda gradient, _: {"image": -STEP * problem.mask * jnp.sign(gradient["image"])}
    )
    return metagrad.descent(
        problem.metagradient,
        problem.images,
        lambda round, key: (state0, batches, *held_out),
        by_signs,
        rounds=rounds + 1,
        projection=lambda images: jax.tree.map(lambda x: jnp.clip(x, 0, 1), images),
        progress=False,
    )


def random_walk(problem, outcomes, rounds, seed):
    """The held-out loss along steps of random signs, of the same size and in the same box."""
    images, losses = problem.images, [float(outcomes(problem.images)[0])]
    for direction in problem.directions(rounds, [seed, 1]):
        images = {"image": jnp.clip(images["image"] + STEP * direction["image"], 0, 1)}
        images = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), images)
        losses.append(float(outcomes(images)[0]))
    return losses
