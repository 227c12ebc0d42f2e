"""The data, the network and the run: digits, 64 tanh or relu units, 150 steps."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metagrad import attribution
from metagrad.demo import data, model

EXAMPLES, QUERIES, STEPS, BATCH, CHECKPOINTS = 500, 20, 150, 50, 10


class Run(NamedTuple):
    """A way to train. The loss along a smooth one bends little when weights change."""

    name: str
    activation: str
    rate: float
    optimizer: optax.GradientTransformation


RUNS = {
    "smooth": Run("smooth", "tanh", 3e-3, optax.adam(3e-3, eps_root=1e-6)),
    "rough": Run("rough", "relu", 3e-2, optax.adam(3e-2, eps_root=1e-8)),
}


class Problem(NamedTuple):
    """Training images, and the test images that are asked about: {"image", "label"}."""

    examples: dict
    queries: dict
    order: np.ndarray  # [STEPS, BATCH]
    params: dict


def make(seed: int) -> Problem:
    digits = data.load(seed)
    cut = lambda part, count: {"image": part.image[:count], "label": part.label[:count]}
    random = np.random.default_rng([seed, 3])
    epochs = -(-STEPS * BATCH // EXAMPLES)
    order = np.concatenate([random.permutation(EXAMPLES) for _ in range(epochs)])
    return Problem(
        cut(digits.train, EXAMPLES),
        cut(digits.test, QUERIES),
        order[: STEPS * BATCH].reshape(STEPS, BATCH),
        model.initial(jax.random.key(seed)),
    )


class Network(NamedTuple):
    """The functions that attribution takes, for one activation."""

    activation: str

    def logits(self, params, examples, probe=lambda name, inputs, outputs: outputs):
        dense = lambda name, x: probe(name, x, x @ params[name]["kernel"] + params[name]["bias"])
        hidden = getattr(jnp if self.activation == "tanh" else jax.nn, self.activation)
        return dense("output", hidden(dense("hidden", examples["image"])))

    def losses(self, params, examples):
        """[n]: cross entropy."""
        return self.criterion(self.logits(params, examples), examples)

    def criterion(self, logits, examples):
        return optax.softmax_cross_entropy_with_integer_labels(logits, examples["label"])

    def outcome(self, params, queries):
        """[Q]: the log odds against the true class, which unlike the loss has no floor at 0.

        It is the outcome of Park et al. 2023 (TRAK), with the sign of a loss.
        """
        logits = self.logits(params, queries)
        true = jax.nn.one_hot(queries["label"], logits.shape[-1], dtype=bool)
        others = jax.nn.logsumexp(jnp.where(true, -jnp.inf, logits), axis=-1)
        return others - jnp.sum(jnp.where(true, logits, 0), axis=-1)


network = functools.cache(Network)
"""One object for each activation: what was compiled for its methods serves all seeds."""


@functools.cache
def training(run: Run) -> attribution.WeightedTraining:
    return attribution.WeightedTraining(network(run.activation).losses, run.optimizer)


@functools.cache
def metagradient(run: Run):
    """Of each query's outcome; compiled once for all seeds."""
    return training(run).metagradient(network(run.activation).outcome)
