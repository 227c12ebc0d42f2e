"""Learns the schedule, searches the grid, and prints what each reaches and what it costs.

    python -m examples.learning_rate_schedule

The price of everything is in plain training runs. What a metagradient costs is measured.
"""

import argparse
import functools
import json
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np

from examples.learning_rate_schedule import picture, searches
from examples.learning_rate_schedule.training import Task, outer, step
from metagrad.applications import learning_rate_schedule
from metagrad.demo import data

HERE = pathlib.Path(__file__).parent
COMMAND = "python -m examples.learning_rate_schedule"
FRESH = 16
"""Runs, with initial parameters and orders that nobody chose by, in which each is measured."""
DEAR = 20
"""How many times the descent's price the large grid search costs."""


def make_task(seed, steps):
    digits = data.load(seed)
    parts = [tuple(map(jnp.asarray, part)) for part in digits]
    return Task(*parts, steps)


def plain_seconds(task):
    """What a plain run takes: the median of ten."""
    train = jax.jit(task.run)
    arguments = jnp.full(task.steps, 0.1), jax.random.key(0)
    jax.block_until_ready(train(*arguments))
    return float(np.median([_seconds(train, arguments) for _ in range(10)]))


def _seconds(train, arguments):
    began = time.perf_counter()
    jax.block_until_ready(train(*arguments))
    return time.perf_counter() - began


def study(seed, steps, rounds, points, start):
    """One split of the data: {name: {"price": plain runs, "rates" or None, scores...}}."""
    task = make_task(seed, steps)
    key = jax.random.key(seed)
    learned = learning_rate_schedule.learn(
        step, outer, task.problem, steps=steps, start=start, points=points, rounds=rounds, key=key
    )
    seconds = learned.descent.history.column("seconds")[1:]
    price = float(np.median(seconds)) / plain_seconds(task)
    cost = rounds * price

    described, rates = searches.grid(steps)
    repeats = max(1, round(DEAR * cost / len(rates)))
    losses = searches.measure(task, rates, jax.random.split(jax.random.fold_in(key, 1), repeats))
    few = np.random.default_rng(seed).choice(len(rates), round(cost), replace=False)
    flat = np.flatnonzero([each[1:] == (0.0, 1.0, "linear") for each in described])
    chosen = {
        "flat start": (0, None),
        "best constant": (len(flat) * repeats, flat[searches.best(losses[flat])]),
        "grid at equal cost": (round(cost), few[searches.best(losses[few, :1])]),
        "grid at 20 times the cost": (losses.size, searches.best(losses)),
    }
    fresh = jax.random.split(jax.random.fold_in(key, 2), FRESH)
    outcomes = {}
    for name, (runs, index) in chosen.items():
        of = np.full(steps, start, np.float32) if index is None else rates[index]
        outcomes[name] = {"price": runs, "rates": of.tolist()} | measured(task, of, fresh)
        if index is not None:
            outcomes[name]["peak, warm-up, final, shape"] = described[index]
    for name, optimizer in searches.TUNING_FREE.items():
        scores = mean(jax.jit(jax.vmap(functools.partial(task.run_with, optimizer)))(fresh))
        outcomes[name] = {"price": 1, "rates": None} | scores
    outcomes["learned"] = {
        "price": cost,
        "rates": learned.rates.tolist(),
        "metagradient in plain runs": price,
        "values of the rounds": learned.descent.history.column("value").tolist(),
    } | measured(task, learned.rates, fresh)
    return outcomes


def measured(task, rates, keys):
    run = functools.partial(task.run, jnp.asarray(rates))
    return mean(jax.jit(jax.vmap(run))(keys))


def mean(scores):
    return {name: float(jnp.mean(each)) for name, each in scores.items()}


def table(studies):
    """What each reaches, as mean and standard deviation over the seeds."""
    lines = [f"{'':27}{'price':>7}  validation loss        test loss    test accuracy"]
    for name in studies[0]:
        columns = [
            [each[name][score] for each in studies]
            for score in ("validation loss", "test loss", "test accuracy")
        ]
        numbers = "  ".join(f"{np.mean(c):.4f} +- {np.std(c, ddof=1):.4f}" for c in columns)
        price = np.mean([each[name]["price"] for each in studies])
        lines.append(f"{name:27}{price:7.0f}  {numbers}")
    return "\n".join(lines)


def main(argv=None):
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3, help="splits of the data")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--points", type=int, default=6)
    parser.add_argument("--start", type=float, default=0.03, help="the flat rate")
    parser.add_argument("--out", type=pathlib.Path, default=HERE)
    options = parser.parse_args(argv)
    settings = {name: getattr(options, name) for name in ("steps", "rounds", "points", "start")}
    began = time.perf_counter()
    studies = [study(seed, **settings) for seed in range(options.seeds)]
    text = table(studies) if len(studies) > 1 else ""
    print(text)
    results = {
        "command": COMMAND,
        "settings": settings,
        "jax": jax.__version__,
        "seconds": time.perf_counter() - began,
        "table": text.splitlines(),
        "seeds": studies,
    }
    (options.out / "results.json").write_text(json.dumps(rounded(results), indent=1) + "\n")
    picture.draw(studies, options.out / "learning_rate_schedule.png")
    return results


def rounded(tree):
    """Five digits of each float: the file is to be read."""
    return jax.tree.map(lambda x: float(f"{x:.5g}") if isinstance(x, float) else x, tree)
