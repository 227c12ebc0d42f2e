"""Chapter: is it right, and what does it cost?

The metagradients stand beside JAX's own, beside float64, and beside slopes that are measured
without derivatives.
"""

import time

import jax
import numpy as np

from metagrad.demo import agreement, report
from metagrad.demo.agreement import Metagradients

NAMES = Metagradients("example weights", "learning rates (log)", "initial parameters")


def median_seconds(call, times=3):
    """The median time of a call that has run before."""

    def once():
        start = time.perf_counter()
        jax.block_until_ready(call())
        return time.perf_counter() - start

    return float(np.median([once() for _ in range(times)]))


def run(out, problem, compiled):
    """Returns (the Metagradients of the run as it stands, numbers)."""
    report.heading(out, "Agreement")
    arguments = problem.state, problem.meta, problem.batches
    value, (meta, state), _ = jax.block_until_ready(compiled(*arguments, *problem.validation))
    metagradients = Metagradients(meta["weight"], meta["log_rate"], state.params)

    with report.working(out, "compiling JAX's gradient of the unrolled run") as compilation:
        unrolled = agreement.unrolled.lower(*arguments, problem.validation).compile()
    jax_value, reference = unrolled(*arguments, problem.validation)
    with report.working(out, "the same in float64"):
        _, exact = agreement.in_float64(*arguments, problem.validation)
    with report.working(out, "slopes along the metagradients, from plain training in float64"):
        slopes = agreement.slopes(metagradients, *arguments, problem.validation)
    with report.working(out, "timing both"):
        seconds = {
            "metagrad": median_seconds(lambda: compiled(*arguments, *problem.validation)),
            "jax": median_seconds(lambda: unrolled(*arguments, problem.validation)),
        }

    against_jax, against_exact = (
        agreement.errors(metagradients, reference),
        agreement.errors(metagradients, exact),
    )
    rounding = agreement.errors(reference, exact)
    table = report.table("metagradient of", "error", "v f64", "JAX v f64", "norm", "slope")
    for name, label, gradient in zip(Metagradients._fields, NAMES, metagradients):
        table.add_row(
            f"{agreement.flat(gradient).size} {label}",
            f"{against_jax[name]:.1e}",
            f"{against_exact[name]:.1e}",
            f"{rounding[name]:.1e}",
            f"{agreement.norm(gradient):.6f}",
            f"{slopes[name]:.6f}",
        )
    report.show(out, table)
    out.print()
    report.text(
        out,
        (
            "error       relative to JAX's gradient of the unrolled run, ||a - b|| / ||b||\n"
            "v f64       relative to the same in float64\n"
            "JAX v f64   how far JAX's float32 is from its float64: the rounding of the run\n"
            "slope       of the loss along the metagradient, measured by training in float64\n"
            "            without any derivative; it should be the norm"
        ),
        indent=4,
    )
    of_jax = unrolled.memory_analysis()
    assert of_jax is not None, "XLA has one for CPUs and GPUs"
    memory = {
        "metagrad": compiled.memory_analysis().temp_size_in_bytes,
        "jax": of_jax.temp_size_in_bytes,
    }
    table = report.table("one metagradient", "time", "memory")
    table.add_row("metagrad", report.duration(seconds["metagrad"]), report.size(memory["metagrad"]))
    table.add_row(
        "JAX, unrolled run, everything stored",
        report.duration(seconds["jax"]),
        report.size(memory["jax"]),
    )
    report.show(out, table)
    return metagradients, {
        "validation_loss": float(value),
        "jax_validation_loss": float(jax_value),
        "error_against_jax": against_jax,
        "error_against_float64": against_exact,
        "jax_error_against_float64": rounding,
        "norm": {
            name: agreement.norm(gradient)
            for name, gradient in zip(Metagradients._fields, metagradients)
        },
        "slope": slopes,
        "seconds": seconds,
        "temporary_bytes": memory,
        "jax_compilation_seconds": compilation.seconds,
    }
