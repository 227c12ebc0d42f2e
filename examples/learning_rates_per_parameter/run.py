"""Learns rates for layers and for parameters, searches for one rate, and compares them.

python -m examples.learning_rates_per_parameter

The search for one rate may cost as much as a descent, counted in plain training runs.
"""

import argparse
import functools
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

import metagrad
from examples import language_model, results_file
from examples.learning_rates_per_parameter import picture, training

HERE = pathlib.Path(__file__).parent
COMMAND = "python -m examples.learning_rates_per_parameter"
GRID = np.geomspace(1e-3, 0.1, 13)
FRESH, LONGER = 4, 4
"""Runs in which everything is measured, and how many times as long the longer ones are."""


@functools.cache
def metagradient():
    return metagrad.compile(training.step).metagradient(
        training.outer, schedule=metagrad.StoreAll(), progress=False
    )


def learned(task, rounds, key, own):
    """The metaparameters after a descent, and its history."""
    rate = lambda peak: optax.adam(optax.cosine_decay_schedule(peak, rounds))
    optimiser = optax.multi_transform(
        {"layer": rate(0.3), "own": rate(0.1)},
        lambda meta: {name: name for name in meta},
    )
    meta0 = training.flat(task.params, own=own)
    result = metagrad.descent(
        metagradient(), meta0, task.problem, optimiser, rounds=rounds, key=key
    )
    return result.meta, result.history


def price(task, repeat=5):
    """What a metagradient costs in plain training runs: the median of ratios."""
    mg = metagradient()
    state, batches, held_out = task.problem(0, jax.random.key(0))
    meta = training.flat(task.params, own=True)
    run = lambda: training.run_with(state, meta, batches)
    ratios = []
    for _ in range(repeat + 1):
        times = []
        for function in (run, lambda: mg(state, meta, batches, held_out).grad):
            began = time.perf_counter()
            jax.block_until_ready(function())
            times.append(time.perf_counter() - began)
        ratios.append(times[1] / times[0])
    return float(np.median(ratios[1:]))


def losses(task, meta, keys, pieces, steps=training.STEPS, params=None):
    """The loss at the end of a run for each key."""
    at_end = jax.jit(training.outer)
    ends = (training.run_with(task.state(params), meta, task.batches(key, steps)) for key in keys)
    return [float(at_end(end, jnp.asarray(pieces))) for end in ends]


def searched(task, runs, key):
    """The rate of the grid with the lowest mean held-out loss, `runs` runs in all."""
    each = max(1, round(runs / len(GRID)))
    keys = jax.random.split(key, each)
    means = [
        np.mean(losses(task, training.flat(task.params, rate), keys, task.held_out[:128]))
        for rate in GRID
    ]
    return float(GRID[int(np.nanargmin(means))]), each * len(GRID)


def measured(task, meta, key):
    """Test losses of fresh runs: as learned, longer, and from other initial parameters."""
    keys = jax.random.split(key, FRESH)
    elsewhere = lambda k: language_model.initial(jax.random.fold_in(k, 7))
    others = [losses(task, meta, [k], task.test, params=elsewhere(k))[0] for k in keys]
    longer = losses(task, meta, keys[:2], task.test, LONGER * training.STEPS)
    return {
        "as learned": float(np.mean(losses(task, meta, keys, task.test))),
        "other initial parameters": float(np.mean(others)),
        "longer": float(np.mean(longer)),
    }


def study(seed, rounds, in_runs):
    task, key = training.make(seed), jax.random.key(seed)
    of_search, of_descent, of_measure = jax.random.split(key, 3)
    rate, runs = searched(task, rounds * in_runs, of_search)
    ways = {
        "the rate of the start": (training.flat(task.params), 0, {}),
        "one rate, searched": (training.flat(task.params, rate), runs, {"rate": rate}),
    }
    for name, own in (("a rate for each layer", False), ("a rate for each parameter", True)):
        meta, history = learned(task, rounds, of_descent, own)
        values = history.column("value").tolist()
        ways[name] = (meta, rounds * in_runs, {"values of the rounds": values} | rates_of(meta))
    return {
        name: {"price": float(cost), **measured(task, meta, of_measure), **more}
        for name, (meta, cost, more) in ways.items()
    }


def rates_of(meta):
    """Each layer's rate, and how far its parameters' rates spread, as a factor."""
    name = lambda path: jax.tree_util.keystr(path, simple=True, separator=".")
    leaves = jax.tree_util.tree_flatten_with_path(meta["layer"])[0]
    rates = {name(path): float(jnp.exp(leaf)) for path, leaf in leaves}
    own = jax.tree.leaves(meta.get("own", {}))
    spread = {key: float(jnp.exp(jnp.std(leaf))) for key, leaf in zip(rates, own)}
    centres = {key: float(jnp.exp(jnp.mean(leaf))) for key, leaf in zip(rates, own)}
    return {
        "rates": {key: rate * centres.get(key, 1.0) for key, rate in rates.items()},
        "spread": spread,
    }


def table(studies):
    """Markdown: means and standard deviations over the seeds."""
    columns = "as learned", "other initial parameters", "longer"
    lines = [
        f"| | price | {columns[0]} | against one rate | {columns[1]} | {columns[2]} |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    spread = lambda numbers: (
        f"{np.mean(numbers):.3f} ± {np.std(numbers, ddof=1):.3f}"
        if len(numbers) > 1
        else f"{numbers[0]:.3f}"
    )
    for name in studies[0]:
        rows = [each[name] for each in studies]
        of = lambda column, rows=rows: np.array([row[column] for row in rows])
        one = np.array([each["one rate, searched"]["as learned"] for each in studies])
        cells = [
            f"{np.mean(of('price')):.0f}",
            spread(of(columns[0])),
            spread(of(columns[0]) - one),
            spread(of(columns[1])),
            spread(of(columns[2])),
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(argv=None):
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3, help="splits and initial parameters")
    parser.add_argument("--rounds", type=int, default=24, help="of a descent")
    parser.add_argument("--out", type=pathlib.Path, default=HERE)
    options = parser.parse_args(argv)
    began = time.perf_counter()
    in_runs = price(training.make(0))
    studies = [study(seed, options.rounds, in_runs) for seed in range(options.seeds)]
    shown = table(studies)
    print(f"a metagradient costs {in_runs:.1f} plain training runs\n{shown}")
    settings = {"rounds": options.rounds, "steps": training.STEPS, "batch": training.BATCH}
    results = {
        "metagradient in plain runs": in_runs,
        "seconds": time.perf_counter() - began,
        "table": shown.splitlines(),
        "seeds": studies,
    }
    results_file.save(options.out / "results.json", COMMAND, settings, results)
    picture.draw(studies, options.out / "learning_rates.png")
    return results
