"""Fine-tuning on what was selected, against all data, random choice and gradient similarity."""

import argparse
import time
from pathlib import Path

import numpy as np

from examples import language_model, results_file
from examples.data_selection_lm import problem as problems
from examples.data_selection_lm import selectors

HERE = Path(__file__).parent
COMMAND = "python -m examples.data_selection_lm"


def run_seed(params, pool, seed, rounds):
    """What each way of choosing leads to, for one pool."""
    problem = problems.make(params, pool, seed)
    before = float(problems._loss(problems.start(params), problem.test))
    rows = {"not fine-tuned": {"test": before, "seconds": 0.0}}

    def measure(name, choose):
        began = time.perf_counter()
        counts, *more = choose()
        seconds = time.perf_counter() - began
        validation, test = problems.evaluate(problem, counts)
        kinds = {kind: float(counts[problem.domain == kind].sum()) for kind in problems.POOLS[pool]}
        rows[name] = {"validation": validation, "test": test, "seconds": seconds, "counts": kinds}
        if more:
            rows[name]["part"] = more[0]
        print(f"  {name:20} test {test:.4f}  ({seconds:.0f} s)  {kinds}", flush=True)

    print(f"pool {pool}, seed {seed}: test loss {before:.4f} before", flush=True)
    measure("all data", lambda: (selectors.everything(problem),))
    if pool == "mixed":
        measure("the manual's pieces", lambda: (selectors.one_domain(problem),))
    measure("random", lambda: selectors.random_of(problem))
    measure("gradient similarity", lambda: selectors.similar_of(problem))
    history = []

    def select():
        selection, counts = selectors.by_metagradients(problem, rounds)
        history.extend(float(record.value) for record in selection.history)
        return (counts,)

    measure("metagradients", select)
    rows["metagradients"]["rounds"] = history
    return rows


def merged(seeds):
    """{way: {"test": mean, "lowest", "highest", "gain over random": mean and each}}"""
    result = {}
    for name in seeds[0]:
        tests = np.array([rows[name]["test"] for rows in seeds])
        against = np.array([rows["random"]["test"] for rows in seeds])
        result[name] = {
            "test": float(tests.mean()),
            "deviation": float(tests.std(ddof=1)) if len(seeds) > 1 else None,
            "against random": (tests - against).tolist(),
        }
    return result


def table(ways):
    lines = ["| fine-tuned on | test loss | less than random, each seed |", "| --- | --- | --- |"]
    for name, row in ways.items():
        spread = "" if row["deviation"] is None else f" ± {row['deviation']:.4f}"
        each = ", ".join(f"{0 - gain:+.4f}" for gain in row["against random"])
        lines.append(f"| {name} | {row['test']:.4f}{spread} | {each} |")
    return "\n".join(lines)


def draw(pools, path):
    """Test losses of each seed on the left of each panel; the descent's rounds on the right."""
    from metagrad.demo.figures import style

    figure, axes = style.figure(5 * len(pools) + 4, 3.8, len(pools) + 1)
    for ax, (pool, seeds) in zip(axes, pools.items()):
        names = [name for name in seeds[0] if name != "not fine-tuned"]
        for place, name in enumerate(names):
            tests = [rows[name]["test"] for rows in seeds]
            colour = style.BLUE if name == "metagradients" else style.GREY
            ax.scatter([place] * len(tests), tests, color=colour, s=18)
            ax.hlines(np.mean(tests), place - 0.3, place + 0.3, color=style.BLACK, linewidth=1)
        ax.set_xticks(range(len(names)), names, rotation=20, fontsize=8)
        ax.set(title=f"pool: {pool}", ylabel="test loss of the target (nats)")
        for rows in seeds:
            colour = style.BLUE if pool == "mixed" else style.ORANGE
            label = pool if rows is seeds[0] else None
            axes[-1].plot(rows["metagradients"]["rounds"], color=colour, linewidth=1, label=label)
    axes[-1].set(title="Descent on the counts", xlabel="round", ylabel="validation loss (nats)")
    axes[-1].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=80)


def main(arguments=None):
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--pools", nargs="+", choices=problems.POOLS, default=[*problems.POOLS])
    parser.add_argument("--pretraining", type=int, default=600, help="steps")
    parser.add_argument("--out", type=Path, default=HERE, help="where the results go")
    options = parser.parse_args(arguments)
    texts = [language_model.docstrings(), language_model.code()]
    params = language_model.pretrained(texts, options.pretraining)
    pools = {
        pool: [run_seed(params, pool, seed, options.rounds) for seed in range(options.seeds)]
        for pool in options.pools
    }
    summary = {pool: merged(seeds) for pool, seeds in pools.items()}
    for pool, ways in summary.items():
        print(f"\npool: {pool}\n\n{table(ways)}")
    draw(pools, options.out / "selection.png")
    settings = {key: value for key, value in vars(options).items() if key != "out"}
    command = f"{COMMAND} --seeds {options.seeds} --rounds {options.rounds}"
    results_file.save(
        options.out / "results.json", command, settings, {"summary": summary, "seeds": pools}
    )
    return summary
