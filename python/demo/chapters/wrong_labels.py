"""Chapter: are the suspects' labels wrong, and is training better without them?

The suspects are the examples with the largest metagradient of their weight. It is d(validation
loss)/d(weight) at weight one, which is positive where an example does harm. Beside it stands what
one would do without metagradients: suspect the examples with the largest loss on their own label
after training.
"""

import jax.numpy as jnp
import numpy as np

from metagrad.applications import label_cleaning
from metagrad.demo import model, report

START, CLEANED, LARGEST_LOSS = (
    "all examples",
    "less metagradient's suspects",
    "less largest training losses",
)


def run(out, problem, metagradients):
    """Returns (name -> TrainingRun, numbers). The runs START and CLEANED are among them."""
    planted = int(problem.wrong.sum())
    report.heading(out, f"Wrong labels: {planted} suspects, {planted} planted")
    with report.working(out, "compiling plain training, and training on all examples"):
        start = problem.train(problem.meta)
        metagradient = np.asarray(metagradients.weight)
        loss = np.asarray(model.losses(start.params, *problem.digits.train))
    scores = {
        CLEANED: metagradient,
        LARGEST_LOSS: loss,
        "less what was planted (oracle)": problem.wrong.astype(np.float32),
    }

    runs, precision = {START: start}, {}
    with report.working(out, "training without the suspects"):
        for name, score in scores.items():
            weight = np.ones_like(score)
            weight[label_cleaning.suspects(score, planted)] = 0
            runs[name] = problem.train(problem.meta | {"weight": jnp.asarray(weight)})
            precision[name] = label_cleaning.precision(score, problem.wrong)

    chance = float(problem.wrong.mean())
    table = report.table("trained on", "precision", "val. loss", "test loss", "test acc.")
    for name, training_run in runs.items():
        table.add_row(
            name,
            f"{precision[name]:.2f}" if name in precision else "",
            f"{training_run.validation[-1]:.4f}",
            f"{training_run.test[-1]:.4f}",
            f"{training_run.accuracy:.1%}",
        )
    report.show(out, table)
    out.print()
    report.text(
        out,
        f"precision at {planted}: metagradient {precision[CLEANED]:.2f}, "
        f"training loss {precision[LARGEST_LOSS]:.2f}, chance {chance:.2f}",
    )
    return runs, {
        "planted": planted,
        "chance": chance,
        "precision": precision[CLEANED],
        "precision_of_training_loss": precision[LARGEST_LOSS],
        "runs": {
            name: {
                "validation_loss": float(training_run.validation[-1]),
                "test_loss": float(training_run.test[-1]),
                "test_accuracy": training_run.accuracy,
            }
            for name, training_run in runs.items()
        },
    }
