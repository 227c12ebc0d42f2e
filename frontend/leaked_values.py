"""Traced values that are used when the function that they belong to is over: refused.

A loss that stores a traced value in a list leaves it to the step, where it is a constant without a
value. In the constants of a traced function such a value is seen at once. One that a custom rule
closes over is seen when the rule is lowered, here (captured.py) or by JAX.

A value of a function that is still being traced, around the metagradient, is an argument of the
program (captured.py).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import jax
from jax.extend import core

from metagrad.runtime import jax_errors, jax_internals

_MESSAGE = (
    "a traced value is used outside of the function that it belongs to: by a jax.custom_jvp or "
    "custom_vjp function that closes over it, or because a loss stored it in a list or an "
    "attribute. Pass it as an argument, or return it as aux. (JAX meets the same where the loss is "
    "jitted: in jax.grad(jax.jit(loss)).)"
)


def check(jaxpr: core.ClosedJaxpr) -> None:
    """Refuses a function among whose constants there is one.

    Raises:
      TypeError: there is.
    """
    for const in jaxpr.consts:
        check_value(const)


def check_value(value) -> None:
    """Refuses a traced value whose function is over.

    Raises:
      TypeError: it is one.
    """
    if isinstance(value, jax.core.Tracer) and not jax_internals.is_live(value):
        raise TypeError(_MESSAGE)


@contextlib.contextmanager
def lowering() -> Iterator[None]:
    """Gives JAX's error about one that it meets when it lowers a function the same words."""
    try:
        yield
    except TypeError as error:
        if not jax_errors.speaks_of_a_traced_constant(error):
            raise
        raise TypeError(_MESSAGE) from error
