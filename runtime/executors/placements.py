"""Where on a mesh of devices the operands and results of a program lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec


def on_mesh(arrays: Sequence[Any], mesh: Mesh) -> Sequence[Any]:
    """The arrays, one of them marked as lying on a mesh, in a way that JAX chooses.

    JAX looks for devices in the constraints of a function that it compiles. It does not see those
    inside of our operation. It needs no telling where it has the mesh of the context, or of a type.
    """
    typed = any(AxisType.Explicit in jax.typeof(x).sharding.mesh.axis_types for x in arrays)
    if typed or not jax.sharding.get_abstract_mesh().empty:
        return arrays
    for i, array in enumerate(arrays):
        if array.ndim:
            free = PartitionSpec(*array.ndim * [PartitionSpec.UNCONSTRAINED])
            marked = jax.lax.with_sharding_constraint(array, NamedSharding(mesh, free))
            return [*arrays[:i], marked, *arrays[i + 1 :]]
    return arrays


def result_types(
    outputs: Sequence[jax.ShapeDtypeStruct], like: Mapping[int, int], avals: Sequence[Any]
) -> list[Any]:
    """The types of a program's results, for operands of types `avals`.

    Where types have shardings (axes that are `Explicit`), a result that is like an operand has that
    one's, and the others are replicated.

    Args:
      like: for a result, by index, the operand.
    """
    meshes = [m for aval in avals if AxisType.Explicit in (m := aval.sharding.mesh).axis_types]
    results = []
    for index, out in enumerate(outputs):
        result = jax.core.ShapedArray(out.shape, out.dtype)
        if meshes:
            spec = PartitionSpec(*out.ndim * [None])
            axes = len(out.shape) - len(avals[like[index]].shape) if index in like else -1
            # The gradients of several queries have their axis in front.
            if axes >= 0 and avals[like[index]].shape == out.shape[axes:]:
                spec = PartitionSpec(*axes * [None], *avals[like[index]].sharding.spec)
            result = result.update(sharding=NamedSharding(meshes[0], spec))
        results.append(result)
    return results
