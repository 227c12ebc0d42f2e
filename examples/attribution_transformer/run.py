"""Scores of pieces of text and of characters, held against trainings on subsets."""

import argparse
import functools
from pathlib import Path

import numpy as np

from examples import attribution_report as report
from examples import language_model, results_file
from examples.attribution_transformer import problem as problems
from metagrad import attribution

HERE = Path(__file__).parent
KEPT = {"95% kept": 0.95, "80% kept": 0.8, "50% kept": 0.5}
COMMAND = "python -m examples.attribution_transformer"


@functools.cache
def metagradient():
    return problems.training().metagradient(problems.outcome)


def methods(problem):
    """{name: function that returns Scores}"""
    run = problems.arguments(problem)
    state, checkpoints = problems.training().train(*run, checkpoints=problems.CHECKPOINTS)
    common = problem.pieces, problem.queries
    losses = language_model.token_losses
    baselines = attribution.baselines
    curvature = baselines.GaussNewton(_logits, language_model.criterion)

    def influence():
        return baselines.influence(
            losses,
            problems.outcome,
            state.params,
            *common,
            damping=0.1,
            curvature=curvature,
            iterations=20,
        )

    def ekfac(damping):
        return lambda: baselines.ekfac(
            _logits, losses, problems.outcome, state.params, *common, damping=damping
        )

    def similarity(cosine):
        # Of whole pieces: the cosine of a character's gradient is not part of that of its piece's.
        return lambda: baselines.gradient_similarity(
            language_model.losses, problems.outcome, state.params, *common, cosine=cosine
        )

    return {
        "metagradient": lambda: attribution.scores(metagradient(), *run, problem.queries),
        "influence, CG, damping 0.1": influence,
        **{f"influence, EK-FAC, damping {d}": ekfac(d) for d in (0.1, 1.0)},
        "TracIn": lambda: baselines.tracin(
            losses, problems.outcome, checkpoints, problems.RATE, *common
        ),
        "gradient product": similarity(False),
        "gradient cosine": similarity(True),
    }


def _logits(params, pieces, *probe):
    return language_model.logits(params, pieces[:, :-1], *probe)


def compare(problem, subsets, seed):
    """The comparison for one seed."""
    run = problems.arguments(problem)
    retrained = report.retrain(metagradient(), run, problem.queries, KEPT, subsets, seed)
    return attribution.compare(methods(problem), retrained, repeat=1)


def explain(problem, query=0):
    """For one query, the pieces that lower its loss most, each with its characters' scores.

    Returns {"query": text, "helpful": [{"text", "score", "characters": [score of each]}]}.
    """
    scores = attribution.scores(metagradient(), *problems.arguments(problem), problem.queries)
    return {
        "query": language_model.decode(problem.queries[query]),
        "helpful": [
            {
                "text": language_model.decode(problem.pieces[i]),
                "score": score,
                "characters": np.round(scores.values[query, i], 7).tolist(),
            }
            for i, score in scores.top(3, query)
        ],
    }


def main(arguments=None):
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--subsets", type=int, default=30, help="trainings for each part kept")
    parser.add_argument("--out", type=Path, default=HERE, help="where the results go")
    options = parser.parse_args(arguments)
    params = problems.pretrained()
    comparisons = []
    for seed in range(options.seeds):
        problem = problems.make(params, seed)
        comparisons.append(compare(problem, options.subsets, seed))
        print(f"seed {seed}\n{comparisons[-1]}\n", flush=True)
    merged = report.over_seeds(comparisons)
    print(report.table(merged))
    example = explain(problems.make(params, 0))
    report.draw({"fine-tuning on the manual": shown(merged)}, options.out / "lds.png")
    settings = {"seeds": options.seeds, "subsets": options.subsets}
    command = f"{COMMAND} --seeds {options.seeds} --subsets {options.subsets}"
    results = {"methods": merged, "example": example}
    results_file.save(options.out / "results.json", command, settings, results)
    return results


def shown(rows):
    """The rows of the picture: influence functions with the damping that served them best."""
    picked = [
        report.best_of(rows, f"influence, {solver}", "95% kept") for solver in ("CG", "EK-FAC")
    ]
    names = ["metagradient", *picked, "TracIn", "gradient cosine"]
    return {method: rows[method] for method in names}
