"""What a metagradient returns."""

from __future__ import annotations

from typing import Any, NamedTuple


class Result(NamedTuple):
    """What a metagradient returns when the step has no auxiliary output.

    Attributes:
      value: the outer function's value; `(value, aux)` with `metagradient(has_aux=True)`.
      grad: the gradient, in the structure of what `wrt` names (a tuple for a tuple). Leaves that are not floating point get float0 zeros, as in
        `jax.grad(..., allow_int=True)`.
      state: the state after the last step.
    """

    value: Any
    grad: Any
    state: Any


class ResultWithAux(NamedTuple):
    """`Result`, and the step's auxiliary outputs stacked over the T steps."""

    value: Any
    grad: Any
    state: Any
    aux: Any
