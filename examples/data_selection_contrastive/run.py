"""Data selection for a contrastive two-tower model, against filters, over several seeds.

    python -m examples.data_selection_contrastive

prints the table of the README, and leaves results.json and selection.png in the folder that --out
names. A seed decides the parts of the data, what is spoilt in the pool, and all training runs.
"""

import argparse
import json
import pathlib
import shlex
import sys
import time

import jax
import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from examples.data_selection_contrastive import contenders, data, training

OURS, ONE_STEP = "metagradients", "metagradients, one step"
REFERENCES = ("clean set alone", "oracle, target", "oracle, all classes")
"""Rows that are not selections of the pool that someone could make."""


def run_seed(seed, sizes, out):
    """All selections of one seed, tested: a dict, as in results.json."""
    problem = data.load(seed)
    began = time.perf_counter()
    chosen = contenders.selections(problem, seed, sizes)
    out.print(f"seed {seed}: filters {time.perf_counter() - began:.0f} s", end=", ")
    descended = contenders.by_metagradients(problem, seed, sizes.rounds)
    chosen[OURS] = "", descended.counts
    if sizes.one_step_rounds:
        one_step = contenders.by_metagradients(problem, seed, sizes.one_step_rounds, late=(0.9,))
        chosen[ONE_STEP] = "", one_step.counts
    rows = {
        name: {
            "chosen": what,
            "shares": shares(problem.kind, counts),
            **contenders.tested(problem, counts, seed, sizes),
        }
        for name, (what, counts) in chosen.items()
    }
    rows["clean set alone"] = of_clean_set(problem, seed, sizes)
    out.print(f"all {time.perf_counter() - began:.0f} s")
    return {
        "seed": seed,
        "rows": rows,
        "losses": descended.losses.tolist(),
        "mean_counts": descended.mean_counts.tolist(),
        "seconds_per_round": descended.seconds,
        "seconds_per_training": seconds_of_training(problem, sizes),
    }


def of_clean_set(problem, seed, sizes):
    ones = np.ones(len(problem.clean.image))
    found = contenders.recalls(problem.clean, ones, problem.test, 10_000 + seed, sizes.tests)
    return {"chosen": "", "alone": found.mean(0).tolist()}


def shares(kind, counts):
    """Which share of the training draws each kind of pair has: four floats."""
    return [float(counts[kind == one].sum() / counts.sum()) for one in range(len(data.KINDS))]


def seconds_of_training(problem, sizes):
    """Of one plain training run and its test."""
    ones = np.ones(len(problem.kind))
    began = time.perf_counter()
    contenders.recalls(problem.pool, ones, problem.test, 0, sizes.tests)
    return (time.perf_counter() - began) / sizes.tests


def summary(seeds):
    """{name: {"alone", "with clean"}: [seeds, 2] recalls in points}."""
    names = seeds[0]["rows"]
    return {
        name: {
            key: 100 * np.array([seed["rows"][name][key] for seed in seeds])
            for key in ("alone", "with clean")
            if key in seeds[0]["rows"][name]
        }
        for name in names
    }


def baselines(found):
    return [name for name in found if name not in (OURS, ONE_STEP, *REFERENCES)]


def difference(found, key="alone"):
    """(the best baseline by its mean, ours minus it for each seed: [seeds])."""
    best = max(baselines(found), key=lambda name: found[name][key].mean())
    return best, (found[OURS][key] - found[best][key]).mean(1)


COLUMNS = ("selection", "image to caption", "caption to image", "mean", "mean, clean set added")


def cells(values):
    """A row of the table: mean and standard deviation over the seeds, in points."""
    spread = lambda values: f"{values.mean():.1f} ± {values.std(ddof=len(values) > 1):.1f}"
    alone, added = values["alone"], values.get("with clean")
    last = "" if added is None else spread(added.mean(1))
    return [*map(spread, alone.T), spread(alone.mean(1)), last]


def table(found):
    made = Table(*COLUMNS, box=box.SIMPLE_HEAD)
    for name, values in found.items():
        made.add_row(name, *cells(values))
    return made


def run(seeds, sizes, folder, out, command):
    """Runs all seeds, prints the table, and writes results.json. Returns what is in it."""
    results = {
        "command": command,
        "jax": jax.__version__,
        "sizes": sizes._asdict(),
        "steps": training.STEPS,
        "batch": training.BATCH,
        "kinds": data.KINDS,
        "seeds": [run_seed(seed, sizes, out) for seed in range(seeds)],
    }
    found = summary(results["seeds"])
    out.print(table(found))
    for key in ("alone", "with clean"):
        best, gain = difference(found, key)
        out.print(f"{key}: metagradients minus {best!r}, by seed: {np.round(gain, 1)}")
    (folder / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    return results


def main(arguments=None):
    parser = argparse.ArgumentParser(
        prog="python -m examples.data_selection_contrastive", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--seeds", type=int, default=5)
    for name, default in contenders.Sizes()._asdict().items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default)
    here = pathlib.Path(__file__).parent
    parser.add_argument("--out", type=pathlib.Path, default=here, help="folder for what is written")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    sizes = contenders.Sizes(*(getattr(options, name) for name in contenders.Sizes._fields))
    words = sys.argv[1:] if arguments is None else arguments
    command = shlex.join(["python", "-m", "examples.data_selection_contrastive", *words])
    results = run(options.seeds, sizes, options.out, Console(highlight=False, width=110), command)
    from examples.data_selection_contrastive import picture

    picture.save(results, options.out / "selection.png")
