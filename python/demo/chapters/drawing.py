"""Chapter: what is left behind. The IR of every stage, and the plots."""

import numpy as np

from metagrad.demo import model, report
from metagrad.demo.chapters.compiling import SCHEDULE
from metagrad.demo.chapters.wrong_labels import CLEANED, START

SMALL_RUN = 16  # steps of the plan that is drawn beside the demo's own


def run(out, settings, problem, metagradients, lowered, runs, descent):
    """Writes the files into `settings.out`. Returns their names."""
    report.heading(out, "Files")
    with report.working(out, "writing the IR of every stage"):
        written = write_ir(settings.out, lowered)
    with report.working(out, "drawing"):
        written |= draw(settings.out, problem, metagradients, lowered, runs, descent)
    for name, what in written.items():
        report.text(out, f"{name:<22} {what}", indent=4)
    return list(written)


def write_ir(folder, lowered):
    written = {}
    for place, stage in enumerate(lowered.stages, 1):
        ir, name = lowered.ir(stage), f"{place}-{stage}.mlir"
        if ir.startswith("HloModule"):
            ir = "// After XLA: HLO in XLA's own text form, not MLIR.\n" + ir
        (folder / name).write_text(ir if ir.endswith("\n") else ir + "\n")
        written[name] = f"{ir.count(chr(10)):,} lines"
    return written


def draw(folder, problem, metagradients, lowered, runs, descent):
    # Imported only now: matplotlib takes seconds, and longer where it has yet to list the fonts.
    from metagrad.demo.figures import label_noise, learning_rate, loss, plan

    curves = {
        "all examples, constant rate": runs[START],
        "suspects left out": runs[CLEANED],
        "and learned schedule": descent.learned,
    }
    rounds = list(zip([r.validation_loss for r in descent.rounds], descent.test))
    training_loss = np.asarray(model.losses(runs[START].params, *problem.digits.train))
    figures = {
        "plan.png": (
            plan.draw(SCHEDULE.plan(SMALL_RUN, gradients=True), lowered.plan),
            "the schedule: states reached, held and reversed",
        ),
        "label_noise.png": (
            label_noise.draw(
                np.asarray(metagradients.weight),
                training_loss,
                problem.wrong,
                problem.digits.train,
                problem.truth,
            ),
            "metagradients of right and wrong labels",
        ),
        "loss.png": (
            loss.draw(
                {
                    name: (training_run.validation, training_run.test)
                    for name, training_run in curves.items()
                },
                rounds,
            ),
            "loss before and after",
        ),
        "learning_rate.png": (
            learning_rate.draw(
                [r.log_rate for r in descent.rounds], descent.best, descent.constant
            ),
            "the schedule learned",
        ),
    }
    for name, (figure, _) in figures.items():
        figure.savefig(folder / name)
    return {name: what for name, (_, what) in figures.items()}
