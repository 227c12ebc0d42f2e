"""Where a streamed run is: on one device, or on those over which its arguments are sharded."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding

from metagrad.api.streamed_executable import StreamedExecutable
from metagrad.runtime.executors.kernels import Arrays, Kernels
from metagrad.runtime.executors.run_shardings import (
    RunShardings,
    mesh_of_arrays,
    on_each_device,
    own_pieces,
    put_together,
)
from metagrad.runtime.executors.streamed import Arguments, Standing
from metagrad.runtime.processes import Processes
from metagrad.runtime.streams import Stream
from metagrad.runtime.streams.batch_shards import BatchShards


@dataclasses.dataclass(frozen=True)
class RunPlacement:
    """A run's programs and arguments, and how arrays come to where these are.

    Attributes:
      kernels: the programs, for these places.
      arguments: what the run is of, on the devices.
      shards: of the batches; None on one device.
      processes: those to which the devices belong, if to several.
      device: where the state is, if that is one place that the user chose.
    """

    kernels: Kernels
    arguments: Arguments
    shards: BatchShards | None
    processes: Processes | None
    device: Sharding | None

    @classmethod
    def of(
        cls, program: StreamedExecutable, kernels: Kernels, arrays: Arrays, stream: Stream
    ) -> RunPlacement:
        """The placement of a run.

        Args:
          arrays: the leaves of state0, meta and outer_args, one after the other.

        Raises:
          ValueError: arguments are on different devices; names one.
          TypeError: an array is on several devices in a way that metagrad does not follow.
        """
        mesh = mesh_of_arrays(arrays, stream_shardings(stream))
        n = program.layout
        if mesh is None:
            arguments = _divided(n, arrays, program.captured(arrays))
            here = kernels.on([*arrays, *arguments.captured])
            return cls(here, arguments, None, None, _only_device(arguments.state0))
        everywhere = NamedSharding(mesh, PartitionSpec())
        arrays = [on_each_device(array, mesh) for array in arrays]
        shards = stream.shards(everywhere)
        _check_devices(program, arrays, shards, everywhere)
        arguments = _divided(n, arrays, program.captured(arrays))
        shardings = RunShardings(
            tuple(array.sharding for array in arguments.state0),
            tuple(array.sharding for array in arguments.meta),
            tuple(shards.stacked),
            everywhere,
        )
        processes = Processes.of([everywhere])
        return cls(kernels.on(arrays, shardings), arguments, shards, processes, None)

    def start(self) -> Standing:
        """The standing at the start."""
        standing = Standing.at_the_start(self.kernels, self.arguments.state0)
        if self.kernels.anywhere:
            # As those that come back from the programs are, which are compiled once then.
            standing = dataclasses.replace(
                standing, meta_bar=self.put("meta_bar", standing.meta_bar)
            )
        return standing

    def _shardings(self, part: str) -> Sequence[Sharding]:
        """Of each array of a part, on several devices."""
        _, shardings = self.kernels.parts[part]
        return [sharding for sharding in shardings if sharding is not None]

    def put(self, part: str, arrays: Sequence[Any]) -> Arrays:
        """Whole arrays, which each process has, where those of the run are.

        Args:
          part: which they are: see `Kernels.parts`.
        """
        if self.shards is None:
            return [self.place(array) for array in arrays]
        return [
            jax.make_array_from_callback(array.shape, sharding, np.asarray(array).__getitem__)
            for array, sharding in zip(arrays, self._shardings(part), strict=True)
        ]

    def place(self, array: Any) -> jax.Array:
        """An array on the one device of the run."""
        return jax.device_put(array, self.device)

    # What the journal stores (`saver.Storage`).

    def take_apart(self, arrays: Arrays) -> Arrays:
        """What this process stores of some arrays."""
        return [piece for array in arrays for piece in own_pieces(array)]

    def put_together(self, part: str, stored: Sequence[np.ndarray]) -> Arrays:
        """The arrays of which `take_apart` gave what was stored."""
        if self.processes is None:
            return self.put(part, stored)
        remaining = iter(stored)
        avals, _ = self.kernels.parts[part]
        return [
            put_together(aval.shape, sharding, remaining)
            for aval, sharding in zip(avals, self._shardings(part), strict=True)
        ]


def stream_shardings(stream: Stream) -> list[Sharding]:
    """The shardings that a stream was given."""
    return jax.tree.leaves(stream.sharding, is_leaf=lambda x: isinstance(x, Sharding))


def _divided(n: Any, arrays: Arrays, captured: Arrays) -> Arguments:
    state, meta = n.state, n.state + n.meta
    return Arguments(arrays[:state], arrays[state:meta], arrays[meta:], captured)


def _only_device(state0: Arrays) -> Sharding | None:
    shardings = {leaf.sharding for leaf in state0 if isinstance(leaf, jax.Array) and leaf.committed}
    target = shardings.pop() if len(shardings) == 1 else None
    return target if isinstance(target, SingleDeviceSharding) else None


def _check_devices(
    program: StreamedExecutable, arrays: Arrays, shards: BatchShards, everywhere: NamedSharding
) -> None:
    signature = program.signature
    trees = (signature.state, signature.meta, signature.outer)
    paths = [leaf.path for tree in trees for leaf in tree.leaves]
    shardings = [array.sharding for array in arrays]
    paths += [leaf.path for leaf in shards.layout.leaves]
    for path, sharding in zip(paths, [*shardings, *shards.shardings], strict=True):
        if sharding.device_set != everywhere.device_set:
            raise ValueError(
                f"{path} is on {len(sharding.device_set)} devices that are not those of the other "
                f"arguments ({len(everywhere.device_set)} devices of {everywhere.mesh}). Put it "
                "there with jax.device_put, or leave it on the host"
            )
