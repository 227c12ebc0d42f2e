"""Chapter: the examples with the largest metagradient of their weight are the suspects; is their label wrong, and is it better without them?

The metagradient is d(validation loss)/d(weight) at weight one: positive where an example does harm. Beside it stands what one would do
without metagradients: suspect the examples with the largest loss on their own label after training.
"""
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from metagrad.demo import label_noise, model, report

START, CLEANED = "all examples", "without the metagradient's suspects"


class TrainingRun(NamedTuple):
    params: Any              # at the end
    meta: dict
    validation: np.ndarray   # loss after each step, [T]
    test: np.ndarray
    accuracy: float          # on the test part, at the end


def training_run(given, meta):
    final, validation, test = given.train(meta)
    return TrainingRun(final.params, meta, np.asarray(validation), np.asarray(test), float(model.accuracy(final.params, *given.test)))


def run(out, given, found):
    """Returns (name -> TrainingRun, numbers). The runs START and CLEANED are among them."""
    many = int(given.wrong.sum())
    report.heading(out, f"Wrong labels: {many} suspects, {many} planted")
    with report.working(out, "compiling plain training, and training on all examples"):
        start = training_run(given, given.meta)
        metagradient = np.asarray(found.weight)
        loss = np.asarray(model.losses(start.params, *given.digits.train))
    scores = {
        CLEANED: metagradient,
        "without the largest training losses": loss,
        "without what was planted (an oracle)": given.wrong.astype(np.float32),
    }

    runs, precision = {START: start}, {}
    with report.working(out, "training without the suspects"):
        for name, score in scores.items():
            weight = np.ones_like(score)
            weight[label_noise.suspects(score, many)] = 0
            runs[name] = training_run(given, given.meta | {"weight": jnp.asarray(weight)})
            precision[name] = label_noise.precision(score, given.wrong)

    chance = float(given.wrong.mean())
    table = report.table("trained on", "precision", "validation loss", "test loss", "test accuracy")
    for name, one in runs.items():
        table.add_row(name, f"{precision[name]:.2f}" if name in precision else "", f"{one.validation[-1]:.4f}", f"{one.test[-1]:.4f}",
                      f"{one.accuracy:.1%}")
    out.print(table)
    report.text(out, f"precision of the metagradient {precision[CLEANED]:.2f}, of the training loss "
                     f"{precision['without the largest training losses']:.2f}, of chance {chance:.2f}")
    return runs, {
        "planted": many,
        "chance": chance,
        "precision": precision[CLEANED],
        "precision_of_training_loss": precision["without the largest training losses"],
        "runs": {name: {"validation_loss": float(one.validation[-1]), "test_loss": float(one.test[-1]), "test_accuracy": one.accuracy}
                 for name, one in runs.items()},
    }
