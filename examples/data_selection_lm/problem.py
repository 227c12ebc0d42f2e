"""The pool, the target, and fine-tuning.

The model was pretrained on code and docstrings. The target is the language manual. A mixed pool has
a few pieces of the manual among docstrings, code and names of characters; a pool of one kind has
the manual only.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import metagrad
from examples import language_model
from metagrad.applications import data_selection

POOLS = {
    "mixed": {"manual": 64, "docstrings": 128, "code": 160, "unicode_names": 160},
    "alike": {"manual": 512},
}
STEPS, BATCH, VALIDATION, TEST = 64, 16, 96, 400
LATE = (-1, -8)
"""The steps at which the surrogate run weighs the pool; their gradients are added."""
OPTIMIZER = optax.adam(1e-3, eps_root=1e-6)


class Problem(NamedTuple):
    params: dict  # pretrained
    pool: jax.Array  # int32 [n, 33]
    domain: np.ndarray  # the name of each piece's, [n]
    validation: jax.Array  # of the target, int32 [VALIDATION, 33]: what is selected for
    test: jax.Array  # of the target, int32 [TEST, 33]: by which nothing is chosen
    seed: int


def make(params, name, seed):
    """A pool, and a target that shares no piece with it."""
    target = language_model.sequences(language_model.manual(), seed)
    cuts = np.cumsum([VALIDATION, TEST])
    validation, test, rest = np.split(target, cuts)
    pieces, domain = [], []
    for kind, count in POOLS[name].items():
        text = None if kind == "manual" else getattr(language_model, kind)()
        drawn = rest if text is None else language_model.sequences(text, [seed, 1])
        pieces.append(drawn[:count])
        domain += [kind] * count
    arrays = (np.concatenate(pieces), validation, test)
    pool, validation, test = map(jnp.asarray, arrays)
    return Problem(params, pool, np.array(domain), validation, test, seed)


# --- Fine-tuning ----------------------------------------------------------------------------------


def step(state, counts, batch, extra=metagrad.mgd.no_extra):
    """One Adam step on a batch of pieces. The counts are in the order of the batches."""
    del counts
    params, moments = state
    loss = lambda params: jnp.mean(language_model.losses(params, batch)) + extra(params)
    updates, moments = OPTIMIZER.update(metagrad.grad(loss)(params), moments, params)
    return optax.apply_updates(params, updates), moments


def start(params):
    return params, OPTIMIZER.init(params)


def target_loss(state, pieces):
    """The mean loss of a character of the target, in nats."""
    return jnp.mean(language_model.losses(state[0], pieces))


@functools.partial(jax.jit, static_argnums=2)
def _fine_tune(state, batches, keep):
    def advance(state, batch):
        state = step(state, None, batch)
        return state, state if keep else None

    return jax.lax.scan(advance, state, batches)


def fine_tune(problem, counts, seed, keep=False):
    """Fine-tunes on the pool with these counts, STEPS steps.

    Returns the final state; with `keep` all states, stacked.
    """
    order = data_selection.order(counts, STEPS, BATCH, [problem.seed, seed])
    final, states = _fine_tune(start(problem.params), problem.pool[order], keep)
    return states if keep else final


def evaluate(problem, counts, draws=3):
    """(validation loss, test loss) after fine-tuning, the means over `draws` orders."""
    states = [fine_tune(problem, counts, 1000 + draw) for draw in range(draws)]
    parts = problem.validation, problem.test
    return tuple(float(np.mean([_loss(state, part) for state in states])) for part in parts)


_loss = jax.jit(target_loss)
