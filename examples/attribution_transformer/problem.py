"""Fine-tuning: 192 pieces of the language manual, after pretraining on code and docstrings."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from examples import language_model
from metagrad import attribution

EXAMPLES, QUERIES, STEPS, BATCH, CHECKPOINTS = 192, 8, 60, 16, 6
RATE = 1e-3
OPTIMIZER = optax.adam(RATE, eps_root=1e-6)


class Problem(NamedTuple):
    params: dict  # pretrained
    pieces: np.ndarray  # int32 [EXAMPLES, 33], to fine-tune on
    queries: np.ndarray  # int32 [QUERIES, 33], held out
    order: np.ndarray  # int32 [STEPS, BATCH]


def pretrained():
    return language_model.pretrained([language_model.docstrings(), language_model.code()])


def make(params, seed):
    pieces = language_model.sequences(language_model.manual(), seed)
    random = np.random.default_rng([seed, 1])
    epochs = -(-STEPS * BATCH // EXAMPLES)
    order = np.concatenate([random.permutation(EXAMPLES) for _ in range(epochs)])
    return Problem(
        params,
        pieces[:EXAMPLES],
        pieces[EXAMPLES:][:QUERIES],
        order[: STEPS * BATCH].reshape(STEPS, BATCH).astype(np.int32),
    )


def training():
    """With a weight for each character: the losses are [n, L]."""
    return attribution.WeightedTraining(language_model.token_losses, OPTIMIZER)


def outcome(params, queries):
    """The mean loss of each query, [Q]."""
    return language_model.losses(params, queries)


def arguments(problem):
    """(state0, meta, batches) of the run."""
    params = jax.tree.map(jnp.asarray, problem.params)
    return training().arguments(params, problem.pieces, problem.order)
