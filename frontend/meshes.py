"""The mesh of devices that a step or an outer function speaks of: in its sharding constraints, its
`shard_map`s and the shardings of its `jax.jit`s.

The program is a single operation to JAX, which therefore has to be told on which devices it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import jax
from jax.extend import core
from jax.sharding import Mesh, NamedSharding

from metagrad.frontend.jaxprs.auto_axes import auto_mesh
from metagrad.frontend.jaxprs.interpret import equations


def mesh_of(jaxprs: Iterable[core.ClosedJaxpr]) -> Mesh | None:
    """The mesh of several devices that is named first, with `Auto` axes; or None.

    An abstract mesh names no devices: JAX takes those of the context, or of the arguments.
    """
    return next((mesh for jaxpr in jaxprs for mesh in _meshes(jaxpr) if mesh.size > 1), None)


def _meshes(jaxpr: core.ClosedJaxpr) -> Iterator[Mesh]:
    for eqn in equations(jaxpr.jaxpr):
        for value in jax.tree.leaves(list(eqn.params.values()), is_leaf=_is_placement):
            mesh: Any = value.mesh if isinstance(value, NamedSharding) else value
            if isinstance(mesh, Mesh):
                yield auto_mesh(mesh)


def _is_placement(value: Any) -> bool:
    return isinstance(value, (NamedSharding, Mesh))
