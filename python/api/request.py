"""What a metagradient is of: all that the traced functions and their derivatives depend on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from metagrad.api.approximations import Approximation

WRT = ("meta", "state", "batches")


@dataclasses.dataclass(frozen=True)
class Request:
    """The functions, and how they are to be differentiated.

    Attributes:
      step, outer: the user's functions.
      step_has_aux, has_aux: whether the step, and the outer function, have auxiliary outputs.
      wrt: what the gradient is taken with respect to: "state", "meta", "batches".
      single: whether the user named one of these and not a tuple.
      ad: who differentiates: "auto", "enzyme", "jax".
      mode: in which direction the run is differentiated: "reverse", "forward", "auto".
      approximations: what is left out of the gradient; nothing if there are none.
      remat: which activations are computed again: "blocks", "none", "auto".
    """

    step: Callable
    outer: Callable
    step_has_aux: bool
    has_aux: bool
    wrt: tuple[str, ...]
    single: bool
    ad: str
    mode: str = "reverse"
    approximations: tuple[Approximation, ...] = ()
    remat: str = "auto"

    @property
    def step_name(self) -> str:
        return getattr(self.step, "__name__", "step")

    @property
    def outer_name(self) -> str:
        return getattr(self.outer, "__name__", "outer")


def check_wrt(wrt: Any) -> tuple[tuple[str, ...], bool]:
    """The groups that `wrt` names, and whether it names one and not a tuple.

    Raises:
      ValueError: it names nothing, something else, or a group twice.
    """
    single = isinstance(wrt, str)
    names = (wrt,) if single else tuple(wrt) if isinstance(wrt, (tuple, list)) else None
    if not names:
        raise ValueError(
            f"wrt={wrt!r} names nothing to differentiate; "
            'choose from "meta", "state", "batches", or a tuple of them'
        )
    unknown = [name for name in names if name not in WRT]
    if unknown:
        raise ValueError(f'wrt={wrt!r}: {unknown[0]!r} is none of "meta", "state", "batches"')
    repeated = [name for name in names if names.count(name) > 1]
    if repeated:
        raise ValueError(
            f"wrt={wrt!r} names {repeated[0]!r} twice; "
            "name each once, the gradient has one entry for each"
        )
    return names, single
