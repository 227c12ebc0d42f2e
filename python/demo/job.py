"""The main job of the demo, as a sequence of chapters (metagrad.demo.chapters).

Each chapter prints its part of the report and returns its numbers. The test part of the data is
only reported: nothing is chosen by it.
"""

import json
import time
from dataclasses import asdict

import jax

from metagrad.demo import report
from metagrad.demo.chapters import (
    comparing,
    compiling,
    drawing,
    initial_parameters,
    learning_rate,
    wrong_labels,
)
from metagrad.demo.problem import make_problem


def run(settings, out=None):
    """Runs all chapters, prints to the rich Console `out` and leaves files in `settings.out`.

    Returns the numbers, as in results.json.
    """
    out = out or report.console()
    start = time.perf_counter()
    results = {
        "settings": asdict(settings) | {"out": str(settings.out)},
        "jax": jax.__version__,
        "device": jax.devices()[0].device_kind,
    }
    # TF32 on a GPU would make two correct metagradients differ in the third digit.
    with jax.default_matmul_precision("highest"):
        report.heading(out, "Training run")
        with report.working(out, "reading the digits"):
            problem = make_problem(settings)
        compiling.introduce(out, settings, problem)
        lowered, compiled, results["compiling"] = compiling.run(out, settings, problem)
        metagradients, results["comparing"] = comparing.run(out, problem, compiled)
        runs, results["wrong_labels"] = wrong_labels.run(out, problem, metagradients)
        results["initial_parameters"] = initial_parameters.run(out, metagradients)
        descent, results["learning_rate"] = learning_rate.run(
            out, settings, problem, compiled, runs
        )
        results["files"] = drawing.run(
            out, settings, problem, metagradients, lowered, runs, descent
        )

    results["seconds"] = time.perf_counter() - start
    (settings.out / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    report.text(out, f"{'results.json':<22} every number of this report", indent=4)
    report.heading(out, f"Done in {results['seconds']:.0f} s. Everything is in {settings.out}")
    return results
