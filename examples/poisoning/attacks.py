"""The victim's training on digits, and the attacks on it, each on the same 2.5% of the images."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import metagrad
from examples.metasmoothness import digits, network
from metagrad.applications import poisoning

TRAIN, HELD_OUT, STEPS = 400, 400, 200
FRACTION = 0.025
STEP_SIZE = 0.1
DISTANCES = (0.003, 0.01, 0.03, 0.1, 0.3)
"""How far gradient cancelling's target is from the clean parameters. The best is taken."""

SMOOTH = network.Routine(rate=2e-2)
ROUGH = network.Routine(8, "after", "max", "relu", 1.0, 1e-12, 32, 1e-2)
FRESH = 1_000_000
"""Where the seeds of the trainings begin that no attack has seen."""


class Victim:
    """A routine that is trained on the digits.

    Attributes:
      data: the digits.
      clean: {"image": the training images}.
    """

    def __init__(self, routine):
        self.routine = routine
        self.data = digits.load(TRAIN, HELD_OUT)
        self.clean = {"image": jnp.asarray(self.data.train.image)}
        self.step = network.train_step(routine, STEPS)
        self.metagradient = self.step.metagradient(
            lambda state, *held_out: self.loss(state["params"], *held_out), progress=False
        )
        self._train = jax.jit(self._trained)
        self._accuracy = jax.jit(lambda params, *part: network.accuracy(routine, params, *part))

    def run(self, seed, label=None):
        """The initial state and the batches of a training."""
        label = self.data.train.label if label is None else label
        state0 = network.state0(self.routine, STEPS, jax.random.key(seed))
        return state0, digits.batches(label, STEPS, self.routine.batch, seed)

    def _trained(self, images, state0, batches):
        train = metagrad.smoothness.training(self.step, state0, batches)
        return train(images)["params"]

    def train(self, images, seed, label=None):
        return self._train(images, *self.run(seed, label))

    def accuracies(self, images, seeds, label=None):
        """Mean accuracy of trainings on the held-out and on the test digits, in percent."""
        of_all = []
        for seed in seeds:
            params = self.train(images, seed, label)
            parts = (self.data.held_out, self.data.test)
            of_all.append([100 * float(self._accuracy(params, *part)) for part in parts])
        return np.mean(of_all, axis=0).tolist()

    def losses(self, params, data):
        return network.losses(self.routine, params, data["image"], data["label"])

    def held_out_loss(self, params):
        return self.loss(params, *self.data.held_out)

    def loss(self, params, image, label):
        return jnp.mean(network.losses(self.routine, params, image, label))


def chosen(seed):
    count = round(FRACTION * TRAIN)
    return np.random.default_rng(seed).choice(TRAIN, count, replace=False)


def by_descent(victim, examples, rounds, seed):
    """Metagradient descent on the training with this seed: the images of the best round."""
    poisoned = _descent(victim, examples, rounds, lambda round: victim.run(seed))
    return poisoned.data, poisoned.losses


def by_descent_over_trainings(victim, examples, rounds, seed):
    """Metagradient descent with a new training in each round: the images after the last one.

    The lowest value belongs to a training that took the images badly, so it does not choose.
    """
    begin = 1000 * (seed + 1)
    poisoned = _descent(victim, examples, rounds, lambda round: victim.run(begin + round))
    return poisoned.descent.meta, poisoned.losses


def _descent(victim, examples, rounds, training):
    return poisoning.poison(
        victim.metagradient,
        victim.clean,
        lambda round, key: (*training(round), *victim.data.held_out),
        examples,
        rounds=rounds,
        step_size=optax.linear_schedule(STEP_SIZE, STEP_SIZE / 10, rounds),
        progress=False,
    )


def by_cancelling(victim, box, seed, steps):
    """Gradient cancelling of the training with this seed.

    Of several targets, the one that lowers its held-out accuracy most.

    Returns:
      (held-out accuracy, distance, images, gradient norm before and after).
    """
    label = victim.data.train.label
    params = victim.train(victim.clean, seed)
    data = victim.clean | {"label": jnp.asarray(label)}
    attempts = []
    for distance in DISTANCES:
        target = poisoning.corrupt_parameters(victim.held_out_loss, params, distance)
        cancelled, norms = poisoning.cancel_gradients(victim.losses, target, data, box, steps=steps)
        images = {"image": cancelled["image"]}
        held_out, _ = victim.accuracies(images, [seed])
        attempts.append((held_out, distance, images, norms[[0, -1]].tolist()))
    return min(attempts, key=lambda attempt: attempt[0])
