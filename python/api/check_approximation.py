"""`metagrad.check` of an approximate metagradient: it is compared with the exact one."""

from __future__ import annotations

from typing import Any

import jax

from metagrad.api.approximations import approximation_notes
from metagrad.api.metagradient import Metagradient
from metagrad.api.plain_steps import steps_of
from metagrad.diagnostics.agreements import (
    agreement,
    agreement_by_leaf,
    agreement_by_part,
)
from metagrad.diagnostics.approximation_report import ApproximationReport


def check_approximation(
    mg: Metagradient, arguments: tuple, differences: dict[str, Any]
) -> ApproximationReport:
    """The angle of an approximate metagradient to the exact one.

    Args:
      arguments: (state0, meta, batches, outer_args).
      differences: the options of `metagrad.check` that are about finite differences.

    Raises:
      ValueError: one of these is given.
    """
    for name, value in differences.items():
        if value is not None:
            raise ValueError(
                f"{name}={value!r} is about finite differences, and {mg!r} is an approximation: it "
                "is compared with the exact metagradient. Check the exact one with it: "
                "mg.with_approximation(None)"
            )
    *run, outer_args = arguments
    approximate = mg(*run, *outer_args)
    exact = mg.with_approximation(None)(*run, *outer_args)
    names = mg.request.wrt
    pairs = (approximate.grad, exact.grad)
    ours, theirs = (
        {names[0]: grad} if mg.request.single else dict(zip(names, grad)) for grad in pairs
    )
    parts, leaves = (
        {
            path: each
            for name in names
            for path, each in compared(ours[name], theirs[name], name).items()
        }
        for compared in (agreement_by_part, agreement_by_leaf)
    )
    value = exact.value[0] if mg.request.has_aux else exact.value
    notes = approximation_notes(mg.request.approximations, steps_of(run[2]))
    return ApproximationReport(
        tuple(note.removeprefix("APPROXIMATE, ") for note in notes)
        or (f"{mg.settings} leaves nothing out of a run of {steps_of(run[2])} steps",),
        agreement(*pairs),
        parts,
        leaves,
        str(jax.numpy.asarray(value).dtype),
    )
