"""`metagrad.mgd.truncated`: the metagradient of the last steps only, which is an approximation.

The run is the whole run. But its first T - K steps are plain training, and the state in which they
end is taken for a constant. What the metaparameters do in those steps, at once and through the
state, is left out of the gradient. Entries that are only read there (the rate of an early step, the
weight of an example that no later batch has) are zero.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

from metagrad.api import approximations
from metagrad.api.metagradient import Metagradient
from metagrad.api.plain_steps import steps_of
from metagrad.diagnostics.agreements import Agreement, agreement


class Truncated:
    """Called and answering like a metagradient; `truncated` makes it.

    Attributes:
      request: of the metagradient that it is made of.
      last: K.
    """

    def __init__(self, mg: Metagradient, last: int):
        others = [
            e for e in mg.request.approximations if not isinstance(e, approximations.Truncated)
        ]
        self._mg = mg.with_approximation((*others, approximations.Truncated(last)))
        self.request, self.last = mg.request, last

    @property
    def settings(self) -> str:
        return f"last={self.last}"

    def __call__(self, state0: Any, meta: Any, batches: Any, *outer_args: Any) -> Any:
        """As the metagradient. The value and the final state are the whole run's, and so are
        auxiliary outputs. The gradient is that of the last K steps.

        If there are no more than K steps, all of it is the metagradient's.
        """
        return self._mg(state0, meta, batches, *outer_args)

    def __repr__(self) -> str:
        return f"Truncated(last={self.last}, {self._mg!r})"


def truncated(mg: Metagradient, last: int) -> Truncated:
    """The metagradient of the last `last` steps only. An approximation: `metagrad.Truncated`.

    It costs T - K plain steps and a metagradient of K steps.

    Args:
      mg: a metagradient with respect to "meta".
      last: K, how many steps are differentiated, at least 1.

    Raises:
      TypeError: `mg` is not a metagradient, or `last` is not an integer.
      ValueError: `last` is less than 1, or `mg` is with respect to something else than "meta",
        where leaving steps out leaves nothing (the initial state) or is no approximation.
    """
    if not isinstance(mg, Metagradient):
        raise TypeError(f"mg must be a metagradient, train_step.metagradient(outer), got {mg!r}")
    if mg.request.wrt != ("meta",):
        raise ValueError(
            f'truncated is for wrt="meta", and this metagradient is with respect to '
            f"{', '.join(map(repr, mg.request.wrt))}: the last steps do not read the initial state "
            "or the batches of the others"
        )
    if operator.index(last) < 1:
        raise ValueError(f"last={last} must be at least 1")
    return Truncated(mg, operator.index(last))


class Windows(dict[int, Agreement]):
    """The agreement with the full metagradient for each number of last steps. It prints a table."""

    def __str__(self) -> str:
        lines = [
            "APPROXIMATE: metagradients of the last steps, against that of all steps",
            "last steps    cosine  relative error  same signs",
        ]
        lines += [
            f"{last:10d}  {each.cosine:8.4f}  {each.relative_error:14.2e}  {each.same_signs:10.1%}"
            for last, each in self.items()
        ]
        return "\n".join(lines)


def compare_windows(
    mg: Metagradient,
    state0: Any,
    meta: Any,
    batches: Any,
    *outer_args: Any,
    last: Sequence[int] | None = None,
) -> Windows:
    """Compares truncated metagradients with the full one, for a choice of how many steps to take.

    It costs the full metagradient and each truncated one, and compiles each, as the numbers of
    steps differ (with a `metagrad.Stream` one program serves all).

    Args:
      mg, state0, meta, batches, outer_args: a metagradient with respect to "meta", and what it is
        called with.
      last: numbers of last steps; None: T, T/2, T/4, ..., 1.

    Returns:
      From each number to an `Agreement`, as a dict. Printing it shows a table.

    Raises:
      TypeError, ValueError: as `truncated`.
    """
    steps = steps_of(batches)
    chosen = _halves(steps) if last is None else last
    approximate = [truncated(mg, number) for number in chosen]
    exact = mg(state0, meta, batches, *outer_args).grad
    return Windows(
        (each.last, agreement(each(state0, meta, batches, *outer_args).grad, exact))
        for each in approximate
    )


def _halves(steps: int) -> list[int]:
    return sorted({max(steps >> i, 1) for i in range(steps.bit_length())}, reverse=True)
