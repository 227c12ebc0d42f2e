"""Learns initial parameters in four ways, and adapts each to tasks that nobody trained on.

python -m examples.maml
"""

import argparse
import pathlib
import time

import jax
import numpy as np
from jax.flatten_util import ravel_pytree

from examples import results_file
from examples.maml import digits, picture, sinusoids, training

HERE = pathlib.Path(__file__).parent
COMMAND = "python -m examples.maml"
STEPS = 10
"""Steps of adaptation that are shown."""
SHOTS = {"sinusoids": (5, 10), "digits": (1, 5)}
WAYS = ("MAML", "first-order MAML", "pretrained", "from scratch")


def of_sinusoids(key, rounds):
    """Name of the way -> initial parameters."""
    setting, start = sinusoids.SETTING, sinusoids.initial(key)
    of_rounds = jax.random.fold_in(key, 1)
    return {
        "MAML": training.learn(setting, start, of_rounds, rounds)[0],
        "first-order MAML": training.learn(setting, start, of_rounds, rounds, True)[0],
        "pretrained": training.pretrain(
            sinusoids.loss, sinusoids.of_all_tasks, start, of_rounds, rounds
        ),
        "from scratch": start,
    }


def of_digits(key, rounds):
    setting, start = digits.SETTING, digits.initial(key)
    of_rounds = jax.random.fold_in(key, 1)
    features = training.pretrain(
        digits.loss, digits.of_all_classes, digits.initial_of_all(key), of_rounds, rounds
    )
    return {
        "MAML": training.learn(setting, start, of_rounds, rounds)[0],
        "first-order MAML": training.learn(setting, start, of_rounds, rounds, True)[0],
        "pretrained": digits.with_a_new_head(features),
        "from scratch": start,
    }


def tested(starts, key, draw, shots, setting, measure, tests):
    """Name of the way -> rate, and the measure after 0 to STEPS steps, mean over test tasks."""
    tasks_of = lambda key, count: jax.vmap(lambda key: draw(key, shots))(
        jax.random.split(key, count)
    )
    tuning, tasks = tasks_of(jax.random.fold_in(key, 2), tests), tasks_of(key, tests)
    rows = {}
    for name, params in starts.items():
        loss = setting.loss
        learned = "MAML" in name
        rate = setting.rate
        if not learned:
            rate = training.best_rate(loss, measure, params, tuning, STEPS)
        curves = training.after_steps(loss, measure, params, rate, tasks, STEPS)
        rows[name] = {"rate": rate, "curve": np.mean(curves, 0).tolist()}
    return rows


def prices(params, setting, repeat=30):
    """Seconds of one metagradient over a batch of tasks, in both ways, and how far they differ."""
    tasks = training.drawn(setting, jax.random.key(0))
    ways = {
        across: jax.jit(training.metagradient(setting, across))
        for across in ("step", "metagradient")
    }
    seconds, gradients = {name: [] for name in ways}, {}
    for _ in range(repeat + 1):
        for name, way in ways.items():
            began = time.perf_counter()
            gradients[name] = jax.block_until_ready(way(params, *tasks))[1]
            seconds[name].append(time.perf_counter() - began)
    flat = {name: np.asarray(ravel_pytree(tree)[0]) for name, tree in gradients.items()}
    apart = np.abs(flat["step"] - flat["metagradient"]).max() / np.abs(flat["step"]).max()
    return {name: float(np.median(taken[1:])) for name, taken in seconds.items()} | {
        "difference": float(apart)
    }


def study(seed, rounds, tests):
    """Family -> shots -> way -> rate and curve."""
    key = jax.random.key(seed)
    unseen = jax.random.fold_in(key, 1000)
    families = {
        "sinusoids": (of_sinusoids, sinusoids.SETTING, sinusoids.draw, sinusoids.loss),
        "digits": (of_digits, digits.SETTING, digits.draw_unseen, digits.error),
    }
    results = {}
    for family in SHOTS:
        learn, setting, draw, measure = families[family]
        starts = learn(key, rounds[family])
        results[family] = {
            str(shots): tested(starts, unseen, draw, shots, setting, measure, tests)
            for shots in SHOTS[family]
        }
    return results


def spread(studies, family, shots, name, step):
    numbers = [each[family][str(shots)][name]["curve"][step] for each in studies]
    return np.mean(numbers), np.std(numbers, ddof=1) if len(numbers) > 1 else 0.0


def table(studies):
    """Markdown: the measure after one and after ten steps, mean and standard deviation."""
    headings = [
        f"{family}, {shots} shots, {step} step{'s' if step > 1 else ''}"
        for family, counts in SHOTS.items()
        for shots in counts
        for step in (1, STEPS)
    ]
    lines = ["| | " + " | ".join(headings) + " |", "| --- |" + " --- |" * len(headings)]
    for name in WAYS:
        cells = []
        for family, counts in SHOTS.items():
            for shots in counts:
                for step in (1, STEPS):
                    mean, deviation = spread(studies, family, shots, name, step)
                    cells.append(
                        f"{mean:.2f} ± {deviation:.2f}"
                        if family == "sinusoids"
                        else f"{1 - mean:.1%} ± {deviation:.1%}"
                    )
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(argv=None):
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--sinusoid-rounds", type=int, default=5_000, help="outer steps")
    parser.add_argument("--digit-rounds", type=int, default=600, help="outer steps")
    parser.add_argument("--tests", type=int, default=600, help="test tasks")
    parser.add_argument("--out", type=pathlib.Path, default=HERE)
    options = parser.parse_args(argv)
    rounds = {"sinusoids": options.sinusoid_rounds, "digits": options.digit_rounds}
    began = time.perf_counter()
    studies = [study(seed, rounds, options.tests) for seed in range(options.seeds)]
    text = table(studies)
    print(text)
    modules = {"sinusoids": sinusoids, "digits": digits}
    price = {
        family: prices(modules[family].initial(jax.random.key(0)), modules[family].SETTING)
        for family in SHOTS
    }
    print(price)
    settings = {"rounds": rounds, "tests": options.tests}
    results = {
        "seconds": time.perf_counter() - began,
        "table": text.splitlines(),
        "a metagradient, vmap of": price,
        "seeds": studies,
    }
    results_file.save(options.out / "results.json", COMMAND, settings, results)
    picture.draw(studies, options.out / "maml.png")
    return results
