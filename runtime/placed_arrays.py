"""Arrays that a program takes behind its arguments: kept on each device that it has run on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax

from metagrad.runtime import jax_internals


class PlacedArrays:
    """A list of arrays, and its copies on other devices.

    Args:
      arrays: of JAX or, from a file, of NumPy; never written to.
    """

    def __init__(self, arrays: Sequence[Any]):
        self._arrays: dict[jax.sharding.Sharding | None, list[Any]] = {None: list(arrays)}

    def beside(
        self, arguments: Sequence[jax.Array], mesh: jax.sharding.Mesh | None = None
    ) -> list[jax.Array]:
        """The arrays on the devices of a program's arguments; where these are on none in
        particular, on those of the mesh.

        As with constants under `jax.jit`, where they were has no say. On several devices an array
        that lies on these stays as it is sharded, and the others are on each of them.
        """
        arrays = self._arrays[None]
        if not arrays:
            return []
        if jax_internals.is_traced_call():
            # There they are constants, and XLA would copy them into loops and fold what reads them.
            return jax.lax.optimization_barrier(arrays)
        otherwise = (
            _default_device()
            if mesh is None
            else jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
        )
        placement = next((x.sharding for x in arguments if _is_committed(x)), otherwise)
        if isinstance(placement, jax.sharding.NamedSharding):
            placement = jax.sharding.NamedSharding(placement.mesh, jax.sharding.PartitionSpec())
        if placement not in self._arrays:
            self._arrays[placement] = [_placed(array, placement) for array in arrays]
        return self._arrays[placement]


def _placed(array: Any, placement: jax.sharding.Sharding) -> jax.Array:
    if (
        isinstance(array, jax.Array)
        and placement.num_devices > 1
        and array.sharding.device_set == placement.device_set
    ):
        return array
    return jax.device_put(array, placement)


def _is_committed(value: Any) -> bool:
    return isinstance(value, jax.Array) and value.committed


def _default_device() -> jax.sharding.Sharding:
    device = jax_internals.setting("jax_default_device")
    if device is None or isinstance(device, str):
        device = jax.local_devices(backend=device)[0]
    return jax.sharding.SingleDeviceSharding(device)
