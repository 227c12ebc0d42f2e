"""One routine: how smooth it is, and how far metagradient descent gets on it."""

import time

import jax
import jax.numpy as jnp
import numpy as np

import metagrad
from examples.metasmoothness import digits, network

TRAIN, HELD_OUT, STEPS = 300, 400, 64
MOVED = 30
"""How many of the training images the configuration holds: 10%."""
STEP = 0.05
"""The step of the descent in each pixel, whose range is [0, 1], and the step size h."""


class Problem:
    """A routine on the digits, whose configuration is the pixels of 30 training images.

    Attributes:
      data: the digits.
      train: from the images of the training set to the parameters.
      metagradient: from (images, descent on the held-out loss) to a metagrad.Result.
      images: the training images as they are, {"image": float32 [300, 8, 8]}.
      mask: 1 for the images that move, [300, 1, 1].
    """

    def __init__(self, routine, seed):
        self.routine = routine
        self.data = digits.load(TRAIN, HELD_OUT)
        label = self.data.train.label
        step = network.train_step(routine, STEPS)
        state0 = network.state0(routine, STEPS, jax.random.key(seed))
        batches = digits.batches(label, STEPS, routine.batch, seed)
        self.train = metagrad.smoothness.training(
            step, state0, batches, params=lambda state: state["params"]
        )
        mg = step.metagradient(lambda state, *held_out: self.loss(state["params"], *held_out))
        self.metagradient = lambda images: mg(state0, images, batches, *self.data.held_out)
        self.images = {"image": jnp.asarray(self.data.train.image)}
        chosen = np.random.default_rng(seed).choice(TRAIN, MOVED, replace=False)
        self.mask = np.zeros((TRAIN, 1, 1))
        self.mask[chosen] = 1

    def loss(self, params, image, label):
        return jnp.mean(network.losses(self.routine, params, image, label))

    def directions(self, count, seed):
        drawn = metagrad.smoothness.random_directions(self.images, count, seed)
        return [{"image": self.mask * each["image"]} for each in drawn]


def study(routine, seed, directions=4, rounds=15):
    """The numbers of one routine and seed.

    Returns:
      {"metasmoothness", "undecided", "losses": held-out loss of each round, "gain": log of the
      highest over the first, "accuracy": on the held-out digits before, "seconds"}.
    """
    begun = time.perf_counter()
    problem = Problem(routine, seed)
    smoothness = metagrad.metasmoothness(
        problem.train, problem.images, problem.directions(directions, seed), STEP
    )
    losses = ascend(problem, rounds)
    params = jax.jit(problem.train)(problem.images)
    return {
        "metasmoothness": smoothness.value,
        "standard_error": smoothness.standard_error,
        "undecided": float(smoothness.undecided.max()),
        "losses": losses,
        "gain": float(np.log(max(losses) / losses[0])),
        "accuracy": float(network.accuracy(routine, params, *problem.data.held_out)),
        "seconds": time.perf_counter() - begun,
    }


def ascend(problem, rounds):
    """Metagradient ascent by signs on the held-out loss, in the box [0, 1]: the loss by round."""
    images, losses = problem.images, []
    for _ in range(rounds + 1):
        result = problem.metagradient(images)
        losses.append(float(result.value))
        step = STEP * problem.mask * jnp.sign(result.grad["image"])
        images = {"image": jnp.clip(images["image"] + step, 0, 1)}
    return losses
