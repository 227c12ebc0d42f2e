"""Ways to choose what to fine-tune on. Each returns a count for every piece of the pool, [n]."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from examples import language_model
from examples.data_selection_lm import problem as problems
from metagrad.applications import data_selection

PARTS = (0.125, 0.25, 0.5)
"""Of the pool that random choice and similarity take; the validation loss decides between them."""


def everything(problem):
    return np.ones(len(problem.pool))


def one_domain(problem, domain="manual"):
    """What a person who knows the domains would take."""
    return (problem.domain == domain).astype(float)


def random(problem, part):
    chosen = np.random.default_rng([problem.seed, 5]).permutation(len(problem.pool))
    return _of(chosen[: round(part * len(chosen))], problem)


def most_similar(problem, similarity, part):
    """The part of the pool with the highest similarity."""
    return _of(np.argsort(-similarity, kind="stable")[: round(part * len(similarity))], problem)


def _of(chosen, problem):
    counts = np.zeros(len(problem.pool))
    counts[chosen] = 1
    return counts


# --- Gradient similarity --------------------------------------------------------------------------


def similarity(problem, checkpoints=4):
    """LESS (Xia et al. 2024, arXiv 2402.04333) without its random projections: [n].

    A run on the whole pool warms up. At each of its checkpoints it is the cosine of the gradient of
    the target's validation loss with the direction in which Adam would go for the example alone;
    they are added, weighted with the learning rate, which is constant here.
    """
    states = problems.fine_tune(problem, everything(problem), 0, keep=True)
    at = np.linspace(0, problems.STEPS - 1, checkpoints + 1).round().astype(int)[1:]
    total = np.zeros(len(problem.pool))
    for t in at:
        params, moments = jax.tree.map(lambda leaf: leaf[t], states)  # noqa: B023
        total += np.asarray(_cosines(params, moments[0], problem.pool, problem.validation))
    return total


@jax.jit
def _cosines(params, adam, pool, validation):
    target = jax.grad(lambda p: jnp.mean(language_model.losses(p, validation)))(params)

    def of_one(piece):
        gradient = jax.grad(lambda p: language_model.losses(p, piece[None])[0])(params)
        direction = jax.tree.map(_adam_direction, gradient, adam.mu, adam.nu)
        return _dot(direction, target) / jnp.sqrt(_dot(direction, direction))

    return jax.lax.map(of_one, pool, batch_size=16) / jnp.sqrt(_dot(target, target))


def _adam_direction(gradient, mean, square, b1=0.9, b2=0.999):
    """What Adam does with one more gradient, late in training."""
    mean, square = b1 * mean + (1 - b1) * gradient, b2 * square + (1 - b2) * gradient**2
    return mean / (jnp.sqrt(square) + 1e-8)


def _dot(a, b):
    return sum(jnp.vdot(*leaves) for leaves in zip(jax.tree.leaves(a), jax.tree.leaves(b)))


# --- Metagradients --------------------------------------------------------------------------------


AVERAGED = 20
"""Over how many of the last rounds the counts are averaged."""


def by_metagradients(problem, rounds, probability=0.2):
    """A `Selection` for the target's validation loss, and the mean of the last counts.

    Single moves are noisy, and a mean over rounds is less so.
    """
    path = []
    selection = data_selection.select(
        problems.step,
        language_model.losses,
        problems.target_loss,
        lambda key: problems.start(problem.params),
        problem.pool,
        (problem.validation,),
        params=lambda state: state[0],
        steps=problems.STEPS,
        batch_size=problems.BATCH,
        rounds=rounds,
        probability=probability,
        at=problems.LATE,
        key=problem.seed,
        callback=lambda round: path.append(np.asarray(round.new_meta)),
    )
    return selection, np.mean(path[-AVERAGED:], 0)


def best_part(problem, choose):
    """The counts of the part whose validation loss is lowest, and that part."""
    losses = {part: problems.evaluate(problem, choose(part))[0] for part in PARTS}
    best = min(losses, key=losses.get)
    return choose(best), best


def random_of(problem):
    return best_part(problem, functools.partial(random, problem))


def similar_of(problem):
    scores = similarity(problem)
    return best_part(problem, functools.partial(most_similar, problem, scores))
