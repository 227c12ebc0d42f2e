"""Numbers for equations: equal ones for equations that do the same to arrays of the same types.

Which variables they read, and the values of constants in them, do not count: a layer of a model
differs in these from the next. Functions in an equation's parameters are compared in the same way.
"""

from __future__ import annotations

import enum
from collections.abc import Hashable
from typing import Any

import numpy as np
from jax.extend import core
from jax.extend.core import primitives

_VALUES = (bool, int, float, complex, str, bytes, type(None), np.dtype, type, enum.Enum)
"""Types of parameters that are compared by value. Of others only the type counts: JAX makes a rule
of a custom function anew for each call."""


class Structure:
    """Gives the numbers, the same for all functions that one `Structure` is asked about."""

    def __init__(self) -> None:
        self._numbers: dict[Hashable, int] = {}
        # Beside each key the function itself, so that its identity stays its own.
        self._functions: dict[int, tuple[core.Jaxpr, int]] = {}

    def numbers(self, jaxpr: core.Jaxpr) -> np.ndarray:
        """int64[number of equations]. An equation that must not be in a block has one of its own.

        Those are effects, and the user's `jax.checkpoint`s with a policy.
        """
        return np.array([self._number_of(eqn) for eqn in jaxpr.eqns], np.int64)

    def _number_of(self, eqn: core.JaxprEqn) -> int:
        key: Hashable = id(eqn) if stays_apart(eqn) else self._key(eqn)
        return self._numbered(key)

    def _numbered(self, key: Hashable) -> int:
        return self._numbers.setdefault(key, len(self._numbers))

    def _key(self, eqn: core.JaxprEqn) -> Hashable:
        return (
            eqn.primitive.name,
            tuple((name, self._of_value(value)) for name, value in sorted(eqn.params.items())),
            tuple(_type(atom.aval) for atom in eqn.invars),
            tuple(_type(var.aval) for var in eqn.outvars),
        )

    def _of_value(self, value: Any) -> Hashable:
        if isinstance(value, core.ClosedJaxpr):
            return self._of_function(value.jaxpr)
        if isinstance(value, core.Jaxpr):
            return self._of_function(value)
        if isinstance(value, (tuple, list)):
            return tuple(map(self._of_value, value))
        return value if isinstance(value, _VALUES) else type(value).__name__

    def _of_function(self, jaxpr: core.Jaxpr) -> int:
        known = self._functions.get(id(jaxpr))
        if known is None:
            types = tuple(_type(var.aval) for var in (*jaxpr.constvars, *jaxpr.invars))
            key = ("function", types, tuple(map(self._key, jaxpr.eqns)))
            known = self._functions[id(jaxpr)] = jaxpr, self._numbered(key)
        return known[1]


def stays_apart(eqn: core.JaxprEqn) -> bool:
    """Whether an equation must not be in a block: it has effects, or a policy of the user."""
    is_checkpoint = eqn.primitive is primitives.remat_p
    return bool(eqn.effects) or (is_checkpoint and eqn.params["policy"] is not None)


def _type(aval: Any) -> Hashable:
    return getattr(aval, "shape", None), str(getattr(aval, "dtype", aval))
