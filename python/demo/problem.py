"""The training problem of the demo: its settings, and all that a training run starts from."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metagrad.demo import data, label_noise, model, training

USUAL_STEPS, USUAL_RATE = 300, 1e-3


@dataclass(frozen=True)
class Settings:
    """What the command line can say. `out` is a folder that exists and can be written to."""

    out: Path
    steps: int = USUAL_STEPS
    rounds: int = 10
    seed: int = 0
    batch: int = 128

    @property
    def rate(self):
        """The constant learning rate to start from.

        It is Adam's usual 1e-3 at 300 steps, and more in shorter runs, which would learn too little
        with it.
        """
        return USUAL_RATE * (USUAL_STEPS / self.steps) ** 0.5


class TrainingRun(NamedTuple):
    """A plain training run, measured."""

    params: Any  # at the end
    meta: dict
    validation: np.ndarray  # loss after each step, [T]
    test: np.ndarray  # the same, on the test part
    accuracy: float  # on the test part, at the end


@dataclass(frozen=True)
class Problem:
    digits: data.Digits  # wrong labels are planted in the training part, and only there
    truth: np.ndarray  # the training labels before that, int32 [n]
    wrong: np.ndarray  # where they were planted, bool [n]
    state: training.State  # s_0
    meta: dict  # {"weight": ones [n], "log_rate": the constant start [T]}
    batches: dict

    @property
    def validation(self):
        return self.digits.validation

    @property
    def test(self):
        return self.digits.test

    def train(self, meta):
        """Trains with `meta`, without metagradients."""
        state, validation, test = training.train(
            self.state, meta, self.batches, self.validation, self.test
        )
        accuracy = float(model.accuracy(state.params, *self.test))
        return TrainingRun(state.params, meta, np.asarray(validation), np.asarray(test), accuracy)


def make_problem(settings):
    digits = data.load(settings.seed)
    noisy, wrong = label_noise.plant(digits.train, settings.seed)
    meta = {
        "weight": np.ones(len(wrong), np.float32),
        "log_rate": np.full(settings.steps, np.log(settings.rate), np.float32),
    }
    batches = data.batches(noisy, settings.steps, settings.batch, settings.seed)
    state = training.initial(jax.random.key(settings.seed))
    return Problem(
        digits._replace(train=noisy),
        digits.train.label,
        wrong,
        state,
        *jax.tree.map(jnp.asarray, (meta, batches)),
    )
