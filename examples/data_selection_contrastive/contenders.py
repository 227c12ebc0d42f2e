"""The selections of one pool that are compared, and what models trained on them can do."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from examples.data_selection_contrastive import data, filters, retrieval, training
from metagrad.applications import data_selection

LATE = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
"""The late steps at which the surrogate adds the pool, as shares of the run."""
PROBABILITY = 0.2


class Sizes(NamedTuple):
    """How much is computed. The defaults are those of the results in the README."""

    rounds: int = 40  # of metagradient descent
    one_step_rounds: int = 40  # of the same with one late step; 0 leaves it out
    random_subsets: int = 300  # that are tried
    tries: int = 4  # training runs by which a fraction is chosen
    tests: int = 8  # training runs of each selection in the end


class Descended(NamedTuple):
    """A selection by metagradient descent."""

    counts: np.ndarray
    losses: np.ndarray  # on the clean set, [rounds]
    mean_counts: np.ndarray  # of each kind of pair, [rounds, 4]
    seconds: float  # of a round, the median


def by_metagradients(problem, seed, rounds, late=LATE, after_round=lambda: None):
    """The method: only the pool and the clean set go in."""
    path = []

    def callback(round):
        path.append(np.asarray(round.new_meta))
        after_round()

    pool, clean = jax.tree.map(jnp.asarray, (problem.pool, problem.clean))
    selection = data_selection.select(
        training.step,
        training.losses,
        lambda state, clean: retrieval.loss(state.params, clean),
        training.start,
        pool,
        (clean,),
        params=lambda state: state.params,
        steps=training.STEPS,
        batch_size=training.BATCH,
        rounds=rounds,
        at=[int(share * training.STEPS) for share in late],
        probability=PROBABILITY,
        key=seed,
        callback=callback,
        progress=False,
    )
    mean_counts = [[counts[problem.kind == kind].mean() for kind in range(4)] for counts in path]
    history = selection.history
    return Descended(
        selection.counts,
        history.column("value"),
        np.array(mean_counts),
        float(np.median(history.column("seconds"))),
    )


@jax.jit
def _recalls(params, pairs):
    return jnp.stack(retrieval.recalls(params, pairs))


def recalls(pairs, counts, on, seed, runs):
    """Trains `runs` models with these counts: their recall@1 both ways on a set, [runs, 2]."""
    seeds = [(seed, run) for run in range(runs)]
    orders = [data_selection.order(counts, training.STEPS, training.BATCH, s) for s in seeds]
    keys = [jax.random.fold_in(jax.random.key(seed), run) for _, run in seeds]
    return np.stack([_recalls(params, on) for params in training.train(keys, pairs, orders)])


def best_on_clean(problem, candidates, seed, tries):
    """The (name, counts) whose models have the highest mean recall on the clean set."""
    value = lambda pair: recalls(problem.pool, pair[1], problem.clean, seed, tries).mean()
    return max(candidates, key=value)


def selections(problem, seed, sizes):
    """Every selection but those by metagradients: {name: (what was chosen, counts [n])}."""
    size, kind = len(problem.kind), problem.kind
    chosen = {"no filter": ("", np.ones(size))}
    subsets = [
        (f"{counts.mean():.2f}", counts)
        for counts in (filters.random_subset(size, [seed, i]) for i in range(sizes.random_subsets))
    ]
    chosen["random subset"] = best_on_clean(problem, subsets, seed, 1)
    for name, score in filters.scores(problem.pool, problem.clean, seed).items():
        kept = [(str(share), filters.best_of(score, share)) for share in filters.FRACTIONS]
        chosen[f"score, {name}"] = best_on_clean(problem, kept, seed, sizes.tries)
    chosen["oracle, target"] = ("", (kind == data.GOOD).astype(float))
    chosen["oracle, all classes"] = ("", np.isin(kind, (data.GOOD, data.OFF_TARGET)).astype(float))
    return chosen


def tested(problem, counts, seed, sizes):
    """Recall@1 on the test set, without and with the clean pairs in the training data.

    A clean pair counts as much as the mean of the pool's pairs that are kept.

    Returns:
      {"alone", "with clean"}: [mean of images to captions, of captions to images].
    """
    pool, clean = problem.pool, problem.clean
    both = data.Pairs(*(np.concatenate(parts) for parts in zip(pool, clean)))
    share = np.full(len(clean.image), counts[counts > 0].mean())
    # Seeds of training runs by which nothing was chosen.
    fresh = 10_000 + seed
    run = lambda pairs, counts: recalls(pairs, counts, problem.test, fresh, sizes.tests)
    return {
        "alone": run(pool, counts).mean(0).tolist(),
        "with clean": run(both, np.concatenate([counts, share])).mean(0).tolist(),
    }
