"""Learns to rate text, and trains language models on what is rated best.

python -m examples.data_rater
"""

import argparse
import functools
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

from examples import language_model, results_file
from examples.data_rater import picture, rating, text

HERE = pathlib.Path(__file__).parent
COMMAND = "python -m examples.data_rater"
BATCH = 32
"""Of the models that are compared."""


@functools.cache
def optimiser(steps):
    return optax.adam(optax.cosine_decay_schedule(3e-3, steps))


def compared(data, scores, key, steps):
    """Name -> held-out loss of a new model, trained in one of the ways.

    Args:
      data: the pool and the test sequences.
      scores: name -> a number for each sequence of the pool. As many of the best are kept as are
        clean.
      key: of the model's parameters and the batches, the same for all.
      steps: of training.
    """
    count = int(np.sum(data.level == 0))
    kept = {name: np.argsort(-score, kind="stable")[:count] for name, score in scores.items()}
    kept["uniform"] = np.arange(len(data.pool))
    start = language_model.initial(key)
    order = np.random.default_rng(int(jax.random.bits(key))).random((steps, BATCH))
    losses = {}
    for name, rows in kept.items():
        batches = data.pool[rows[(order * len(rows)).astype(int)]]
        params = language_model.train(start, batches, optimiser(steps))
        losses[name] = float(jnp.mean(language_model.losses(params, data.test)))
    return losses


def by_loss(data, key, steps):
    """Minus the loss of each sequence under a model trained on the whole pool: low loss is kept."""
    order = np.random.default_rng(int(jax.random.bits(key))).integers(
        0, len(data.pool), (steps, BATCH)
    )
    params = language_model.train(language_model.initial(key), data.pool[order], optimiser(steps))
    return -np.asarray(language_model.losses(params, data.pool))


def rank_correlation(scores, level):
    from scipy.stats import spearmanr

    return float(spearmanr(scores, -level).statistic)


def study(seed, rounds, steps):
    data, key = text.make(seed), jax.random.key(seed)
    of_rater, of_loss, of_models = jax.random.split(key, 3)
    rater, values = rating.learn(
        jnp.asarray(data.pool), jnp.asarray(data.held_out), of_rater, rounds
    )
    scores = {
        "rated": np.asarray(rating.ratings(rater, data.pool)),
        "low loss": by_loss(data, of_loss, steps),
        "oracle": -data.level,
    }
    mean_of = lambda score: {
        str(level): float(np.mean(score[data.level == level])) for level in text.LEVELS
    }
    return {
        "rank correlation": {
            name: rank_correlation(score, data.level) for name, score in scores.items()
        },
        "mean rating by level": mean_of(scores["rated"]),
        "ratings": [scores["rated"][data.level == level][:100].tolist() for level in text.LEVELS],
        "clean kept": {
            name: float(np.mean(data.level[np.argsort(-score, kind="stable")[:clean]] == 0))
            for clean in [int(np.sum(data.level == 0))]
            for name, score in scores.items()
        },
        "held-out loss": compared(data, scores, of_models, steps),
        "values of the rounds": values[:: max(1, rounds // 50)].tolist(),
    }


WAYS = {
    "uniform": "all of the pool",
    "low loss": "lowest loss under a model of the pool",
    "rated": "rated best",
    "oracle": "clean (oracle)",
}


def table(studies):
    """Markdown: means and standard deviations over the seeds."""
    lines = [
        "| trained on | test loss | above the oracle | clean among the kept | rank correlation |",
        "| --- | --- | --- | --- | --- |",
    ]
    shown = lambda numbers, digits: (
        f"{np.mean(numbers):.{digits}f} ± {np.std(numbers, ddof=1):.{digits}f}"
        if len(numbers) > 1
        else f"{numbers[0]:.{digits}f}"
    )
    for name, words in WAYS.items():
        losses = [each["held-out loss"][name] for each in studies]
        above = [each["held-out loss"][name] - each["held-out loss"]["oracle"] for each in studies]
        cells = [shown(losses, 3), shown(above, 3)]
        for column, digits in (("clean kept", 3), ("rank correlation", 3)):
            known = name in studies[0][column]
            cells.append(shown([each[column][name] for each in studies], digits) if known else "")
        lines.append(f"| {words} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(argv=None):
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=80, help="outer steps")
    parser.add_argument("--steps", type=int, default=300, help="of the models that are compared")
    parser.add_argument("--out", type=pathlib.Path, default=HERE)
    options = parser.parse_args(argv)
    began = time.perf_counter()
    studies = [study(seed, options.rounds, options.steps) for seed in range(options.seeds)]
    shown = table(studies)
    print(shown)
    settings = {"rounds": options.rounds, "steps": options.steps}
    results = {
        "seconds": time.perf_counter() - began,
        "table": shown.splitlines(),
        "seeds": studies,
    }
    results_file.save(options.out / "results.json", COMMAND, settings, results)
    picture.draw(studies, options.out / "data_rater.png")
    return results
