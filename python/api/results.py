"""What a metagradient returns."""

from __future__ import annotations

from typing import Generic, NamedTuple

from jax import export

from metagrad.api.type_variables import AuxT, GradT, StateT, ValueT


class Result(NamedTuple, Generic[ValueT, GradT, StateT]):
    """What a metagradient returns when the step has no auxiliary output.

    For a type checker it is `Result[value, grad, state]`: with `wrt="meta"` the gradient has the
    type of the metaparameters.

    Attributes:
      value: the outer function's value; `(value, aux)` with `metagradient(has_aux=True)`.
      grad: the gradient, in the structure of what `wrt` names (a tuple for a tuple). Leaves that
        are not floating point get float0 zeros, as in `jax.grad(..., allow_int=True)`. If the value
        is a vector of Q entries, every leaf has a leading axis of length Q.
      state: the state after the last step.
    """

    value: ValueT
    grad: GradT
    state: StateT


class ResultWithAux(NamedTuple, Generic[ValueT, GradT, StateT, AuxT]):
    """`Result`, and the step's auxiliary outputs stacked over the T steps."""

    value: ValueT
    grad: GradT
    state: StateT
    aux: AuxT


class NoAux:
    """For type checkers: a step that returns only its state. There are no objects of this class."""


class Aux(Generic[AuxT]):
    """For type checkers: a step that returns `(state, aux)`. There are no objects of this class."""


for kind in (Result, ResultWithAux):
    # A jitted function that returns one can be exported and stored.
    export.register_namedtuple_serialization(kind, serialized_name=f"metagrad.{kind.__name__}")
