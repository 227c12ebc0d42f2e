"""Smoother training is better optimised by metagradient descent: the study and its picture.

python -m examples.metasmoothness --seeds 2        # about 15 s for each routine and seed
python -m examples.metasmoothness --draw           # only the picture, from results.json
"""

import argparse
import dataclasses
import json
import pathlib

import numpy as np

from examples.metasmoothness import picture
from examples.metasmoothness.network import ROUGH, SMOOTH

HERE = pathlib.Path(__file__).parent


def routines():
    """The routines by name: two, and each with one switch as in the other."""
    named = {"smooth": SMOOTH, "rough": ROUGH}
    for base, one, other in (("smooth", SMOOTH, ROUGH), ("rough", ROUGH, SMOOTH)):
        for field in dataclasses.fields(one):
            value = getattr(other, field.name)
            if value != getattr(one, field.name):
                changed = dataclasses.replace(one, **{field.name: value})
                named[f"{base}, {_words(field.name, value)}"] = changed
    return named


def _words(field, value):
    words = {"norm": f"norm {value}", "pool": f"{value} pool", "activation": value}
    return words.get(field, f"{field} {value:g}" if not isinstance(value, str) else value)


def rank_correlation(smoothness, gain, seed=0, draws=10_000):
    """(Spearman's rho, its 95% interval over bootstrap draws of the routines).

    Of fewer than four routines there is no interval: NaN.
    """
    from scipy.stats import spearmanr

    smoothness, gain = np.asarray(smoothness), np.asarray(gain)
    random = np.random.default_rng(seed)
    rhos = []
    for _ in range(draws):
        drawn = random.integers(0, len(gain), len(gain))
        if len(set(drawn)) > 2:
            rhos.append(spearmanr(smoothness[drawn], gain[drawn]).statistic)
    few = len(gain) < 4
    interval = [float("nan")] * 2 if few else np.percentile(rhos, [2.5, 97.5]).tolist()
    return float(spearmanr(smoothness, gain).statistic), interval


def summary(results):
    """One row for each routine: means over seeds; and the rank correlations."""
    rows = {name: _row(list(runs.values())) for name, runs in results["runs"].items()}
    columns = {key: [row[key] for row in rows.values()] for key in next(iter(rows.values()))}
    correlations = {
        key: rank_correlation(columns["metasmoothness"], columns[key])
        for key in ("over random", "gain", "rounds up", "test drop")
    }
    return rows, correlations


def _row(runs):
    mean = lambda read: float(np.mean([read(run) for run in runs]))
    return {
        "metasmoothness": mean(lambda run: run["metasmoothness"]),
        "loss before": mean(lambda run: run["losses"][0]),
        "loss after": mean(lambda run: max(run["losses"])),
        "gain": mean(lambda run: run["gain"]),
        "random": mean(lambda run: run["random"]),
        "over random": mean(lambda run: run["gain"] - run["random"]),
        "rounds up": mean(lambda run: _rising(run["losses"])),
        "test drop": mean(lambda run: run["accuracy_before"][1] - run["accuracy_after"][1]),
    }


def _rising(losses):
    """The share of the rounds that raised the loss."""
    return np.mean(np.diff(losses) > 0)


def report(rows, correlations):
    columns = list(next(iter(rows.values())))
    lines = [f"{'routine':<26}" + "".join(f"{name:>16}" for name in columns)]
    for name, row in sorted(rows.items(), key=lambda item: -item[1]["metasmoothness"]):
        lines.append(f"{name:<26}" + "".join(f"{row[column]:>16.3f}" for column in columns))
    for name, (rho, (low, high)) in correlations.items():
        lines.append(
            f"rank correlation of metasmoothness and {name}: {rho:.2f} "
            f"(95% interval {low:.2f} to {high:.2f})"
        )
    return "\n".join(lines)


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m examples.metasmoothness", description=__doc__)
    parser.add_argument("--seeds", type=int, default=2, help="runs of each routine")
    parser.add_argument("--rounds", type=int, default=12, help="rounds of descent")
    parser.add_argument("--draw", action="store_true", help="only draw results.json again")
    parser.add_argument("--out", type=pathlib.Path, default=HERE, help="folder of the results")
    options = parser.parse_args(arguments)
    path = options.out / "results.json"
    if not options.draw:
        measure(options, path)
    results = json.loads(path.read_text())
    rows, correlations = summary(results)
    print(report(rows, correlations))
    picture.draw(rows, correlations["over random"], results["landscapes"]).savefig(
        options.out / "metasmoothness.png"
    )


def measure(options, path):
    """Fills results.json, which is written anew after each routine. What is there is kept."""
    from examples.metasmoothness import study

    results = json.loads(path.read_text()) if path.exists() else {"runs": {}, "landscapes": {}}
    results["command"] = (
        f"python -m examples.metasmoothness --seeds {options.seeds} --rounds {options.rounds}"
    )
    for name, routine in routines().items():
        runs = results["runs"].setdefault(name, {})
        for seed in range(options.seeds):
            if str(seed) in runs:
                continue
            runs[str(seed)] = numbers = study.study(routine, seed, rounds=options.rounds)
            path.write_text(json.dumps(results, indent=1) + "\n")
            print(
                f"{name}, seed {seed}: metasmoothness {numbers['metasmoothness']:.2f}, gain "
                f"{numbers['gain']:.2f}, random {numbers['random']:.2f}",
                flush=True,
            )
        if name in ("smooth", "rough") and name not in results["landscapes"]:
            results["landscapes"][name] = picture.landscape_of(study.Problem(routine, 0))
        path.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
