"""Traced values that are used outside of the function that they belong to: refused.

A loss that stores a traced value in a list leaves it to the step, where it is a constant without a
value. In the constants of a traced function such a value is seen at once. One that a custom rule
closes over is seen by JAX, when the rule is lowered.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import jax
from jax.extend import core

from metagrad.runtime import jax_internals

_MESSAGE = (
    "a traced value is used outside of the function that it belongs to: by a jax.custom_jvp or "
    "custom_vjp function that closes over it, or because a loss stored it in a list or an "
    "attribute. Pass it as an argument, or return it as aux. (jax.jit of the step meets the same.)"
)


def check(jaxpr: core.ClosedJaxpr) -> None:
    """Refuses a function among whose constants there is one.

    Raises:
      TypeError: there is.
    """
    if any(isinstance(const, jax.core.Tracer) for const in jaxpr.consts):
        raise TypeError(_MESSAGE)


@contextlib.contextmanager
def lowering() -> Iterator[None]:
    """Gives JAX's error about one that it meets when it lowers a function the same words."""
    try:
        yield
    except TypeError as error:
        if not jax_internals.speaks_of_a_traced_constant(error):
            raise
        raise TypeError(_MESSAGE) from error
