"""The operations on the way from a configuration to the parameters that are not smooth."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from metagrad.compiler.dialect.metagrad import Layout
from metagrad.frontend.dtypes import is_float
from metagrad.frontend.jaxprs import kinks
from metagrad.frontend.jaxprs.cuts import Place


def find_places(train: Callable, z: Any) -> tuple[tuple[Place, ...], tuple[Place, ...]]:
    """(the operations with a kink or a jump, those that round to narrower floats), once each.

    The analyses are those of `metagrad.check`, which look at a step and an outer function. Here the
    whole routine is the outer function, of a state that no step changes.
    """
    leaves, structure = jax.tree.flatten(z)
    keep = lambda *leaves: leaves

    def outer(*leaves: Any) -> Any:
        params = jax.tree.leaves(train(jax.tree.unflatten(structure, leaves)))
        return sum(jnp.sum(p) for p in params if is_float(p))

    step, whole = jax.make_jaxpr(keep)(*leaves), jax.make_jaxpr(outer)(*leaves)
    flow = step, whole, Layout(len(leaves), 0, 0, 0), ("state",)
    return kinks.find_kinks(*flow), kinks.find_narrow(*flow)
