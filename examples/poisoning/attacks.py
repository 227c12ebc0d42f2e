"""The victim's training on digits, and the attacks on it, each on the same 2.5% of the images."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import metagrad
from examples.metasmoothness import digits, network
from metagrad.applications import poisoning

TRAIN, HELD_OUT, STEPS = 1000, 400, 100
FRACTION = 0.025
STEP_SIZE = 0.1
DISTANCES = (0.1, 0.2, 0.4, 0.8)
"""How far gradient cancelling's target is from the clean parameters. The best is taken."""

SMOOTH = network.Routine(output_scale=1.0)
ROUGH = network.Routine(8, "after", "max", "relu", 1.0, 1e-12, 32, 1e-2)
ATTACKED, FRESH = 0, 1_000_000
"""Where the seeds begin: of trainings that an attack may look at, and of those that judge it."""


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

    def accuracies(self, images, label=None, trainings=5):
        """Mean accuracy of fresh trainings on the held-out and on the test digits, in percent."""
        of_all = []
        for i in range(trainings):
            params = self.train(images, FRESH + i, label)
            parts = (self.data.held_out, self.data.test)
            of_all.append([100 * float(self._accuracy(params, *part)) for part in parts])
        return np.mean(of_all, axis=0).tolist()

    def loss(self, params, image, label):
        return jnp.mean(network.losses(self.routine, params, image, label))


def chosen(seed):
    count = round(FRACTION * TRAIN)
    return np.random.default_rng(seed).choice(TRAIN, count, replace=False)


def by_descent(victim, examples, rounds, seed):
    """Metagradient descent; every round has other initial parameters and another order."""
    metagradient = victim.step.metagradient(
        lambda state, *held_out: victim.loss(state["params"], *held_out), progress=False
    )

    def problem(round, key):
        drawn = int(jax.random.randint(key, (), ATTACKED, FRESH))
        return (*victim.run(drawn), *victim.data.held_out)

    return poisoning.poison(
        metagradient,
        victim.clean,
        problem,
        examples,
        rounds=rounds,
        step_size=optax.linear_schedule(STEP_SIZE, STEP_SIZE / 10, rounds),
        key=seed,
        progress=False,
    )


def by_cancelling(victim, box, seed, steps):
    """Gradient cancelling. Of several targets, that with the lowest held-out accuracy."""
    label = victim.data.train.label
    params = victim.train(victim.clean, ATTACKED + seed)
    held_out_loss = lambda params: victim.loss(params, *victim.data.held_out)
    losses = lambda params, data: network.losses(
        victim.routine, params, data["image"], data["label"]
    )
    data = victim.clean | {"label": jnp.asarray(label)}
    attempts = []
    for distance in DISTANCES:
        target = poisoning.corrupt_parameters(held_out_loss, params, distance)
        cancelled, norms = poisoning.cancel_gradients(losses, target, data, box, steps=steps)
        images = {"image": cancelled["image"]}
        held_out, _ = victim.accuracies(images, trainings=2)
        attempts.append((held_out, distance, images, norms[[0, -1]].tolist()))
    return min(attempts, key=lambda attempt: attempt[0])
