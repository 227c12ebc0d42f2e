"""What a derivative of a function keeps of it, in bytes, and what it computes: rough counts.

The bytes tell whether a block is worth computing again, and the operations what repeats matter.
Nothing else depends on them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.extend import core
from jax.extend.core import primitives

from metagrad.frontend.jaxprs.calls import call, inside

PRODUCTS = ("dot_general", "conv_general_dilated", "ragged_dot_general", "ragged_dot")
"""The primitives that take most of a model's time."""

_MOVES = (
    *("broadcast_in_dim", "reshape", "squeeze", "expand_dims", "transpose", "slice", "iota", "rev"),
    *("copy", "stop_gradient", "convert_element_type", "split", "unstack"),
)
"""What moves numbers and computes none: nothing is kept for its derivative."""


def size(aval: Any) -> int:
    """Bytes of an array; 0 for what is none."""
    itemsize = getattr(getattr(aval, "dtype", None), "itemsize", 0)
    return math.prod(getattr(aval, "shape", ())) * itemsize


def _shape(atom: Any) -> tuple[int, ...]:
    return getattr(atom.aval, "shape", ())


def sizes(atoms: Sequence[Any]) -> int:
    """Bytes of some variables."""
    return sum(size(atom.aval) for atom in atoms if not isinstance(atom, core.DropVar))


def operations(jaxpr: core.Jaxpr) -> float:
    """Multiplications in the products of a function."""
    return sum(map(operations_of, jaxpr.eqns))


def operations_of(eqn: core.JaxprEqn) -> float:
    """Multiplications in the products of an equation, those in its functions too."""
    name = eqn.primitive.name
    if name in PRODUCTS:
        left, right, result = (_shape(atom) for atom in (*eqn.invars[:2], eqn.outvars[0]))
        out = math.prod(result)
        if name == "dot_general":
            (contracted, _), _ = eqn.params["dimension_numbers"]
            return out * math.prod(left[i] for i in contracted)
        return out * math.prod(right) / max(1, right[-1])
    times = eqn.params["length"] if eqn.primitive is primitives.scan_p else 1
    return times * sum(map(operations, inside(eqn)))


def kept(jaxpr: core.Jaxpr) -> int:
    """Bytes that are kept for a derivative of a function: its results and what it has between.

    Of a `jax.checkpoint` these are its results alone.
    """
    return sum(map(_kept_of, jaxpr.eqns))


def _kept_of(eqn: core.JaxprEqn) -> int:
    if eqn.primitive.name in _MOVES:
        return 0
    called = call(eqn)
    if eqn.primitive is primitives.remat_p or called is None or not called.bodies:
        return sizes(eqn.outvars)
    of_bodies = [kept(body.jaxpr.jaxpr) for body in called.bodies]
    if eqn.primitive is primitives.scan_p:
        return eqn.params["length"] * of_bodies[0]
    return max(of_bodies)


def peak(jaxpr: core.Jaxpr) -> int:
    """Bytes that are kept, and those of the largest `jax.checkpoint` while its turn lasts."""
    return kept(jaxpr) + max(map(_largest_checkpoint, jaxpr.eqns), default=0)


def _largest_checkpoint(eqn: core.JaxprEqn) -> int:
    if eqn.primitive is primitives.remat_p:
        return peak(eqn.params["jaxpr"])
    return max(
        (_largest_checkpoint(within) for body in inside(eqn) for within in body.eqns), default=0
    )


def last_reads(jaxpr: core.Jaxpr) -> dict[core.Var, int]:
    """For each variable that is read, the last equation that does; their number for a result."""
    reads: dict[core.Var, int] = {}
    for i, eqn in enumerate(jaxpr.eqns):
        reads.update((v, i) for v in eqn.invars if isinstance(v, core.Var))
    results = (v for v in jaxpr.outvars if isinstance(v, core.Var))
    return reads | dict.fromkeys(results, len(jaxpr.eqns))


def live_bytes(jaxpr: core.Jaxpr) -> np.ndarray:
    """int64[equations + 1]: bytes computed before each place and read behind it.

    Place i is in front of equation i.
    """
    eqns, last_read = jaxpr.eqns, last_reads(jaxpr)
    change = np.zeros(len(eqns) + 2, np.int64)
    for i, eqn in enumerate(eqns):
        for var in eqn.outvars:
            if var in last_read:
                change[i + 1] += size(var.aval)
                change[last_read[var] + 1] -= size(var.aval)
    return np.cumsum(change)[:-1]
