"""The matrix that the tests in this folder print when they have run.

It says what was trained, how far it is from JAX, and who differentiated what. Rows travel with
pytest's reports as a property, so they arrive from xdist's workers too.
"""

import dataclasses

PROPERTY = "matrix"
HEADER = (
    "model",
    "optimiser",
    "value",
    "f64 error",
    "f32 error",
    "JAX's f32",
    "loss",
    "update",
    "outer",
)
WHO = {
    "enzyme": "Enzyme",
    "jax-reverse": "JAX+Enzyme",
    "jax-mixed": "JAX (mixed)",
    "jax": "JAX",
    "nested-mixed": "nested (mixed)",
    "nested-jax": "nested",
    "expanded": "expanded",
}


def record(record_property, model, optimiser, agreement):
    record_property(
        PROPERTY, {"model": model, "optimiser": optimiser, **dataclasses.asdict(agreement)}
    )


def rows(reports):
    """The rows of the reports, as text, in the order of the tests' names."""
    measured = [
        value for report in reports for name, value in report.user_properties if name == PROPERTY
    ]
    for row in sorted(
        measured,
        key=lambda row: (
            row["optimiser"] if row["model"].endswith("small") else "",
            row["model"],
            row["optimiser"],
        ),
    ):
        who = ["+".join(WHO[rule] for rule in row["loss"]), WHO[row["update"]], WHO[row["outer"]]]
        by_jax = "" if row["by_jax"] is None else f"{row['by_jax']:.0e}"
        value = "ok" if row["value"] <= 1e-11 else f"off by {row['value']:.0e}"
        yield (
            row["model"],
            row["optimiser"],
            value,
            f"{row['double']:.0e}",
            f"{row['single']:.0e}",
            by_jax,
            *who,
        )


def write(reporter):
    """Prints the matrix if there is one."""
    reports = [
        report
        for outcome in ("passed", "failed")
        for report in reporter.getreports(outcome)
        if report.when == "call"
    ]
    table = list(rows(reports))
    if not table:
        return
    reporter.section(
        "largest relative error of a metagradient's leaf, against jax.grad in f64; "
        "and who differentiates",
        sep="-",
    )
    widths = [max(map(len, column)) for column in zip(HEADER, *table)]
    for row in (HEADER, *table):
        reporter.write_line(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip()
        )
