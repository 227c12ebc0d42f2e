"""Chapter: the examples with the largest metagradient of their weight are the suspects; is their
label wrong, and is it better without them?

The metagradient is d(validation loss)/d(weight) at weight one: positive where an example does harm.
Beside it stands what one would do without metagradients: suspect the examples with the largest loss
on their own label after training.
"""

import jax.numpy as jnp
import numpy as np

from metagrad.demo import label_noise, model, report

START, CLEANED, LARGEST_LOSS = (
    "all examples",
    "less metagradient's suspects",
    "less largest training losses",
)


def run(out, given, found):
    """Returns (name -> TrainingRun, numbers). The runs START and CLEANED are among them."""
    many = int(given.wrong.sum())
    report.heading(out, f"Wrong labels: {many} suspects, {many} planted")
    with report.working(out, "compiling plain training, and training on all examples"):
        start = given.train(given.meta)
        metagradient = np.asarray(found.weight)
        loss = np.asarray(model.losses(start.params, *given.digits.train))
    scores = {
        CLEANED: metagradient,
        LARGEST_LOSS: loss,
        "less what was planted (oracle)": given.wrong.astype(np.float32),
    }

    runs, precision = {START: start}, {}
    with report.working(out, "training without the suspects"):
        for name, score in scores.items():
            weight = np.ones_like(score)
            weight[label_noise.suspects(score, many)] = 0
            runs[name] = given.train(given.meta | {"weight": jnp.asarray(weight)})
            precision[name] = label_noise.precision(score, given.wrong)

    chance = float(given.wrong.mean())
    table = report.table("trained on", "precision", "val. loss", "test loss", "test acc.")
    for name, one in runs.items():
        table.add_row(
            name,
            f"{precision[name]:.2f}" if name in precision else "",
            f"{one.validation[-1]:.4f}",
            f"{one.test[-1]:.4f}",
            f"{one.accuracy:.1%}",
        )
    report.show(out, table)
    out.print()
    report.text(
        out,
        f"precision at {many}: metagradient {precision[CLEANED]:.2f}, training loss {precision[LARGEST_LOSS]:.2f}, chance {chance:.2f}",
    )
    return runs, {
        "planted": many,
        "chance": chance,
        "precision": precision[CLEANED],
        "precision_of_training_loss": precision[LARGEST_LOSS],
        "runs": {
            name: {
                "validation_loss": float(one.validation[-1]),
                "test_loss": float(one.test[-1]),
                "test_accuracy": one.accuracy,
            }
            for name, one in runs.items()
        },
    }
