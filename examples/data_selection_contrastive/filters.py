"""What data selection is compared with: filters by a score, and random subsets.

A score is the cosine between the embeddings of a pair's image and caption, CLIP's score, averaged
over the models of some training runs. Those that score highest are kept. The models are

- "own": trained on the whole pool. Wrong captions are not learnt by heart in so short a run.
- "reference": trained on the clean set.
- "both": the sum of the two scores, each divided by its standard deviation.
"""

import jax
import jax.numpy as jnp
import numpy as np

from examples.data_selection_contrastive import model, training
from metagrad.applications import data_selection

MODELS = 5
"""Training runs behind a score."""
FRACTIONS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


@jax.jit
def _cosines(params, pool):
    """[n]"""
    image = model.embed_images(params["image"], pool.image)
    return jnp.sum(image * model.embed_captions(params["caption"], pool.caption), -1)


def scores(pool, clean, seed):
    """{"own", "reference", "both"}: a score of each pair of the pool, float [n] each."""
    keys = jax.random.split(jax.random.key(seed), MODELS)

    def cosine(data):
        ones = np.ones(len(data.image))
        orders = [
            data_selection.order(ones, training.STEPS, training.BATCH, [seed, run])
            for run in range(MODELS)
        ]
        return np.mean([_cosines(params, pool) for params in training.train(keys, data, orders)], 0)

    own, reference = cosine(pool), cosine(clean)
    return {
        "own": own,
        "reference": reference,
        "both": own / own.std() + reference / reference.std(),
    }


def best_of(score, fraction):
    """Counts, float [n]: one for the share of the pool with the highest scores, else zero."""
    counts = np.zeros(len(score))
    counts[np.argsort(-score, kind="stable")[: round(fraction * len(score))]] = 1
    return counts


def random_subset(size, seed):
    """Counts, float [n]: one for a random share of the pool, between 0.1 and 1."""
    random = np.random.default_rng(seed)
    return best_of(random.random(size), random.uniform(0.1, 1))
