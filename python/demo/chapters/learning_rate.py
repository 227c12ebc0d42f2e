"""Chapter: metagradient descent on the learning rate of every step.

It starts from a constant rate and uses the examples that are left. For comparison it takes the best
of a grid of constant rates, which cost one training run each; the schedule has to beat that too.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from metagrad.demo import rate_descent, report, training
from metagrad.demo.chapters.wrong_labels import CLEANED
from metagrad.demo.problem import TrainingRun

GRID = 1, 2, 3, 5, 8, 12, 20  # multiples of the start


class Descent(NamedTuple):
    rounds: list  # rate_descent.Round each
    test: list  # test loss of each round
    best: int  # the round with the lowest validation loss
    learned: TrainingRun  # its run, trained again
    constant: float  # the best constant learning rate of the grid


def run(out, settings, problem, compiled, runs):
    """Returns (Descent, numbers)."""
    report.heading(out, f"Learning-rate schedule: metagradient descent, rounds: {settings.rounds}")
    meta = runs[CLEANED].meta

    def metagradient(log_rate):
        value, (gradient, _), state = compiled(
            problem.state,
            meta | {"log_rate": jnp.asarray(log_rate)},
            problem.batches,
            *problem.validation,
        )
        return value, gradient["log_rate"], state

    rounds, test = [], []
    start = np.asarray(meta["log_rate"])
    with report.rounds(out, "rounds", settings.rounds + 1) as done:
        for descent_round in rate_descent.descend(metagradient, start, settings.rounds):
            rounds.append(descent_round)
            test.append(float(training.validation_loss(descent_round.state, *problem.test)))
            rates = np.exp(descent_round.log_rate)
            done(
                f"  round {len(rounds) - 1:2}  "
                f"validation loss {descent_round.validation_loss:.4f}  "
                f"test loss {test[-1]:.4f}  rates {rates.min():.1e} to {rates.max():.1e}"
            )
    if len(rounds) <= settings.rounds:
        report.text(out, f"training diverged after round {len(rounds) - 1}; stopped there")

    best = int(np.argmin([r.validation_loss for r in rounds]))
    constants = {}
    with report.working(
        out, f"training with the learned schedule, and with {len(GRID)} constant rates"
    ):
        learned = problem.train(meta | {"log_rate": jnp.asarray(rounds[best].log_rate)})
        for multiple in GRID:
            constants[multiple * settings.rate] = problem.train(
                meta | {"log_rate": jnp.asarray(start + np.log(multiple), jnp.float32)}
            )
    constant = min(constants, key=lambda rate: constants[rate].validation[-1])

    rows = {
        f"before: constant {settings.rate:.2g}": runs[CLEANED],
        f"best constant rate of {len(GRID)}: {constant:.2g}": constants[constant],
        f"after: learned schedule (round {best})": learned,
    }
    table = report.table("schedule", "val. loss", "test loss", "test acc.")
    for name, training_run in rows.items():
        table.add_row(
            name,
            f"{training_run.validation[-1]:.4f}",
            f"{training_run.test[-1]:.4f}",
            f"{training_run.accuracy:.1%}",
        )
    report.show(out, table)
    return Descent(rounds, test, best, learned, constant), {
        "validation_loss_by_round": [r.validation_loss for r in rounds],
        "test_loss_by_round": test,
        "best_round": best,
        "before": float(runs[CLEANED].validation[-1]),
        "after": float(learned.validation[-1]),
        "best_constant": {
            "rate": constant,
            "validation_loss": float(constants[constant].validation[-1]),
            "test_loss": float(constants[constant].test[-1]),
        },
        "test": {"before": float(runs[CLEANED].test[-1]), "after": float(learned.test[-1])},
    }
