"""Finds planted wrong labels, trains without the suspects, and prints what that brings.

    python -m examples.label_cleaning

Prices are in plain training runs. What a metagradient costs is measured.
"""

import argparse
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np

import metagrad
from examples import results_file
from examples.label_cleaning import contenders, picture
from examples.label_cleaning.training import Task, make_task, outer, step, test_scores
from metagrad.applications import label_cleaning

HERE = pathlib.Path(__file__).parent
COMMAND = "python -m examples.label_cleaning"
NOISES = "systematic", "uniform"
RUNS = 4
"""Runs over which every score is averaged."""
ROUNDS = 10
FRESH = 8
"""Runs in which each choice of examples is measured."""


def study(noise, seed, mg):
    """One split of the data: {name: {"price", "precision", "test loss", "test accuracy"}}."""
    task = make_task(noise, seed)
    key = jax.random.key(seed)
    scoring = jax.random.split(key, RUNS)
    fresh = jax.random.split(jax.random.fold_in(key, 1), FRESH)
    planted, count = int(task.wrong.sum()), len(task.wrong)
    outcomes = {}

    def note(name, price, keep, precision):
        loss, accuracy = map(float, test_scores(task, jnp.asarray(keep, jnp.float32), fresh))
        outcomes[name] = {
            "price": price,
            "precision": precision,
            "found": float((~keep)[task.wrong].mean()),
            "test loss": loss,
            "test accuracy": accuracy,
            "dropped": count - int(keep.sum()),
        }

    def note_scores(name, price, scores):
        keep = np.ones(count, bool)
        keep[label_cleaning.suspects(scores, planted)] = False
        note(name, price, keep, label_cleaning.precision(scores, task.wrong))

    note("all examples", 0, np.ones(count, bool), None)
    note("only right labels (oracle)", 0, ~task.wrong, 1.0)
    for name, (score, price) in contenders.ALL.items():
        note_scores(name, price * RUNS, np.asarray(score(task, scoring)))

    once = label_cleaning.clean(
        mg, count, task.problem, drop=planted, rounds=1, seeds=RUNS, key=key
    )
    price = metagradient_price(task, mg, key)
    note_scores("metagradient, once", RUNS * price, once.scores)

    rounds = label_cleaning.clean(
        mg, count, task.problem, drop=planted // 5, rounds=ROUNDS, patience=1, seeds=RUNS, key=key
    )
    found = float(task.wrong[rounds.dropped].mean()) if len(rounds.dropped) else 0.0
    spent = RUNS * price * len(rounds.descent.history)
    note("metagradient, in rounds", spent, rounds.kept, found)
    return outcomes


def metagradient_price(task, mg, key):
    """What a metagradient takes, in plain training runs: medians of ten, in CPU seconds."""
    state, *rest = task.problem(0, key)
    ones = jnp.ones(len(task.wrong))
    return _median(lambda: mg(state, ones, *rest)) / _median(lambda: plain_run(task, ones, key))


plain_run = jax.jit(Task.params)


def _median(function, repeat=10):
    def seconds():
        began = time.process_time()
        jax.block_until_ready(function())
        return time.process_time() - began

    seconds()
    return float(np.median([seconds() for _ in range(repeat)]))


COLUMNS = "precision", "found", "test loss", "test accuracy"


def table(noise, studies):
    """What each reaches, as mean and standard deviation over the seeds."""
    lines = [
        f"{noise} noise",
        f"{'':27}{'price':>6}{'drops':>7}" + "".join(f"{c:>17}" for c in COLUMNS),
    ]
    for name, first in studies[0].items():
        price, drops = (np.mean([s[name][c] for s in studies]) for c in ("price", "dropped"))
        line = f"{name:27}{price:6.0f}{drops:7.0f}"
        for column in COLUMNS:
            if first[column] is None:
                line += f"{'':17}"
                continue
            numbers = [s[name][column] for s in studies]
            line += f"{np.mean(numbers):.3f} +- {np.std(numbers, ddof=1):.3f}".rjust(17)
        lines.append(line)
    return "\n".join(lines)


def main(argv=None):
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3, help="splits of the data")
    parser.add_argument("--noise", nargs="+", choices=NOISES, default=NOISES)
    parser.add_argument("--out", type=pathlib.Path, default=HERE)
    options = parser.parse_args(argv)
    began = time.perf_counter()
    mg = metagrad.compile(step).metagradient(outer)
    studies = {
        noise: [study(noise, seed, mg) for seed in range(options.seeds)] for noise in options.noise
    }
    texts = [table(*each) for each in studies.items()] if options.seeds > 1 else []
    print("\n\n".join(texts))
    settings = {"seeds": options.seeds, "noise": options.noise}
    results = {
        "seconds": time.perf_counter() - began,
        "tables": [line for text in texts for line in text.splitlines()],
        "studies": studies,
    }
    results_file.save(options.out / "results.json", COMMAND, settings, results)
    picture.draw(studies, options.out / "label_cleaning.png")
    return results
