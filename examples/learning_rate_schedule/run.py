"""Learns the schedule, searches the grid, and prints what each reaches and what it costs.

    python -m examples.learning_rate_schedule

The price of everything is in plain training runs. What a metagradient costs is measured, in CPU
seconds, since the machine may do other things meanwhile.
"""

import argparse
import math
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np

from examples import results_file
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


plain_run = jax.jit(Task.run)
fresh_runs = jax.jit(jax.vmap(Task.run, (None, None, 0)))
fresh_runs_with = jax.jit(jax.vmap(Task.run_with, (None, None, 0)), static_argnums=1)


def metagradient_price(task, start, points):
    """What a metagradient takes, in plain training runs: medians of ten, in CPU seconds."""
    rates = jnp.full(task.steps, start)
    plain = _median(lambda: plain_run(task, rates, jax.random.key(0)))
    seconds = []

    def problem(round, key):
        seconds.append(time.process_time())
        return task.problem(round, jax.random.key(0))

    learning_rate_schedule.learn(
        step, outer, problem, steps=task.steps, start=start, points=points, rounds=12
    )
    return float(np.median(np.diff(seconds)[1:])) / plain


def _median(function, repeat=10):
    def seconds():
        began = time.process_time()
        jax.block_until_ready(function())
        return time.process_time() - began

    seconds()
    return float(np.median([seconds() for _ in range(repeat)]))


def study(seed, price, steps, rounds, points, start):
    """One split of the data: {name: {"price": plain runs, "rates" or None, scores...}}."""
    task = make_task(seed, steps)
    key = jax.random.key(seed)
    learned = learning_rate_schedule.learn(
        step, outer, task.problem, steps=steps, start=start, points=points, rounds=rounds, key=key
    )
    cost = rounds * price

    described, rates = searches.grid(steps)
    repeats = math.ceil(DEAR * cost / len(rates))
    losses = searches.measure(task, rates, jax.random.split(jax.random.fold_in(key, 1), repeats))
    few = np.random.default_rng(seed).choice(
        len(rates), min(round(cost), len(rates)), replace=False
    )
    flat = np.flatnonzero([each[1:] == (0.0, 1.0, "linear") for each in described])
    chosen = {
        "flat start": (0, None),
        "best constant": (len(flat) * repeats, flat[searches.best(losses[flat])]),
        "grid at equal cost": (len(few), few[searches.best(losses[few, :1])]),
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
        scores = mean(fresh_runs_with(task, optimizer, fresh))
        outcomes[name] = {"price": 1, "rates": None} | scores
    outcomes["learned"] = {
        "price": cost,
        "rates": learned.rates.tolist(),
        "values of the rounds": learned.descent.history.column("value").tolist(),
    } | measured(task, learned.rates, fresh)
    return outcomes


def measured(task, rates, keys):
    return mean(fresh_runs(task, jnp.asarray(rates), keys))


def mean(scores):
    return {name: float(jnp.mean(each)) for name, each in scores.items()}


def table(studies):
    """What each reaches, as mean and standard deviation over the seeds.

    Splits of the data differ more than schedules do. So the last column is the difference of the
    validation loss to that of the learned schedule on the same split.
    """
    lines = [
        f"{'':26}{'price':>6}   validation loss         test loss      accuracy   above learned"
    ]
    learned = np.array([each["learned"]["validation loss"] for each in studies])
    for name in studies[0]:
        loss, test, accuracy = (
            np.array([each[name][score] for each in studies])
            for score in ("validation loss", "test loss", "test accuracy")
        )
        price = np.mean([each[name]["price"] for each in studies])
        lines.append(
            f"{name:26}{price:6.0f}  {_spread(loss)}  {_spread(test)}  "
            f"{accuracy.mean():.1%} +- {accuracy.std(ddof=1):.1%}  {_spread(loss - learned)}"
        )
    return "\n".join(lines)


def _spread(numbers):
    return f"{np.mean(numbers):7.4f} +- {np.std(numbers, ddof=1):.4f}"


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
    price = metagradient_price(make_task(0, options.steps), options.start, options.points)
    studies = [study(seed, price, **settings) for seed in range(options.seeds)]
    text = table(studies) if len(studies) > 1 else ""
    print(f"a metagradient costs {price:.1f} plain training runs\n{text}")
    results = {
        "metagradient in plain runs": price,
        "seconds": time.perf_counter() - began,
        "table": text.splitlines(),
        "seeds": studies,
    }
    results_file.save(options.out / "results.json", COMMAND, settings, results)
    picture.draw(studies, options.out / "learning_rate_schedule.png")
    return results
