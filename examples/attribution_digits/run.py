"""Scores of exact metagradients and of approximations, held against trainings on subsets."""

import argparse
from pathlib import Path

from examples import attribution_report as report
from examples import results_file
from examples.attribution_digits import model
from metagrad import attribution

HERE = Path(__file__).parent
KEPT = {"99% kept": 0.99, "95% kept": 0.95, "80% kept": 0.8, "50% kept": 0.5}


def methods(problem, run):
    """{name: function that returns Scores} for one trained network."""
    network, training = model.network(run.activation), model.training(run)
    arguments = training.arguments(problem.params, problem.examples, problem.order)
    state, checkpoints = training.train(*arguments, checkpoints=model.CHECKPOINTS)
    common = problem.examples, problem.queries
    functions = network.losses, network.outcome
    curvature = attribution.baselines.GaussNewton(network.logits, network.criterion)
    baselines = attribution.baselines

    def influence(damping):
        return lambda: baselines.influence(
            *functions, state.params, *common, damping=damping, curvature=curvature
        )

    def ekfac(damping):
        return lambda: baselines.ekfac(
            network.logits, *functions, state.params, *common, damping=damping
        )

    def similarity(cosine):
        return lambda: baselines.gradient_similarity(
            *functions, state.params, *common, cosine=cosine
        )

    return {
        "metagradient": lambda: attribution.scores(
            model.metagradient(run), *arguments, problem.queries
        ),
        **{f"influence, CG, damping {d}": influence(d) for d in (1e-1, 1e-2, 1e-3)},
        **{f"influence, EK-FAC, damping {d}": ekfac(d) for d in (0.1, 1.0)},
        "TracIn": lambda: baselines.tracin(*functions, checkpoints, run.rate, *common),
        "gradient product": similarity(False),
        "gradient cosine": similarity(True),
    }


def retrainings(problem, run, subsets, seed):
    """{name: Retrained}, for each part of the examples that is kept."""
    arguments = model.training(run).arguments(problem.params, problem.examples, problem.order)
    return report.retrain(model.metagradient(run), arguments, problem.queries, KEPT, subsets, seed)


def compare(run, seeds, subsets):
    """The comparison of each seed, merged."""
    comparisons = []
    for seed in range(seeds):
        problem = model.make(seed)
        retrained = retrainings(problem, run, subsets, seed)
        comparisons.append(attribution.compare(methods(problem, run), retrained, repeat=3))
        print(f"{run.name}, seed {seed}\n{comparisons[-1]}\n", flush=True)
    return report.over_seeds(comparisons)


def main(arguments=None):
    parser = argparse.ArgumentParser(
        prog="python -m examples.attribution_digits", description=__doc__
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--subsets", type=int, default=100, help="trainings for each part kept")
    parser.add_argument("--out", type=Path, default=HERE, help="where the results go")
    options = parser.parse_args(arguments)
    merged = {
        name: compare(run, options.seeds, options.subsets) for name, run in model.RUNS.items()
    }
    for name, rows in merged.items():
        print(f"{name}\n\n{report.table(rows)}\n")
    report.draw({name: shown(rows) for name, rows in merged.items()}, options.out / "lds.png")
    settings = {"seeds": options.seeds, "subsets": options.subsets}
    command = (
        f"python -m examples.attribution_digits --seeds {options.seeds} --subsets {options.subsets}"
    )
    results_file.save(options.out / "results.json", command, settings, {"runs": merged})
    return merged


def shown(rows):
    """The rows of the picture: influence functions with the damping that served them best."""
    name = "95% kept"
    picked = [report.best_of(rows, f"influence, {solver}", name) for solver in ("CG", "EK-FAC")]
    return {
        method: rows[method] for method in ["metagradient", *picked, "TracIn", "gradient cosine"]
    }
