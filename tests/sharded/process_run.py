"""One process of a run on the devices of several. tests/sharded/test_processes.py starts them.

    python -m tests.sharded.process_run WHAT OUTPUT PORT INDEX COUNT [--option value ...]

It writes what its run gave to OUTPUT.INDEX.npz.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import signal
import time

DEVICES = 4
LENGTH, SLOTS, TIERS = 2, 2, ("disk", "host", "device")


def begin(options):
    """JAX, with this process's share of the devices."""
    from tests.fast_xla import FAST

    flags = f"--xla_force_host_platform_device_count={DEVICES // options.count}"
    os.environ["XLA_FLAGS"] = f"{FAST} {flags}"
    import jax

    jax.config.update("jax_enable_x64", True)
    if options.count > 1:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(
            f"127.0.0.1:{options.port}", options.count, options.index, initialization_timeout=30
        )


class Rows:
    """A dataset that notes which rows it was asked for."""

    def __init__(self, arrays, pause):
        self.arrays, self.pause, self.asked = arrays, pause, set()

    def __len__(self):
        return len(self.arrays[0])

    def __getitem__(self, row):
        time.sleep(self.pause)
        self.asked.add(row)
        return tuple(array[row] for array in self.arrays)


def run(options):
    import jax
    import numpy as np
    from jax.sharding import AxisType, NamedSharding
    from jax.sharding import PartitionSpec as P

    import metagrad
    from tests.sharded import small
    from tests.streamed import plans

    mesh = jax.make_mesh((DEVICES,), ("data",), axis_types=(AxisType.Auto,))

    def put(array, *axes):
        array = np.asarray(array)
        sharding = NamedSharding(mesh, P(*axes))
        return jax.make_array_from_callback(array.shape, sharding, array.__getitem__)

    state, weights, arrays, held_out = small.arguments()
    order = small.order()
    if options.nan:
        arrays[0][order[1]] = np.nan
    batches = tuple(array[order] for array in arrays)
    if not options.replicated:
        state = jax.tree.map(lambda x: put(x, *(["data"] if np.ndim(x) else [])), state)
    else:
        state = jax.tree.map(put, state)
    held_out = put(held_out, "data")
    wrt = tuple(options.wrt.split(","))
    step = metagrad.compile(has_aux=True)(small.make_step(metagrad.grad))
    keywords = {"verify": "replay"} if options.verify else {}
    if options.what == "fused":
        placed = jax.tree.map(lambda x: put(x, None, "data"), batches)
        mg = step.metagradient(small.outer, wrt)
        return mg(state, weights, placed, held_out), {}
    kind, sharding = options.source, NamedSharding(mesh, P("data"))
    data = Rows(arrays, options.pause)
    if kind == "dataset":
        stream = metagrad.Stream(data, order, sharding=sharding)
    elif kind == "arrays":
        stream = metagrad.Stream(arrays, order, sharding=sharding)
    elif kind == "batches":
        stream = metagrad.Stream(batches, sharding=sharding)
    elif kind == "mixed":
        stream = metagrad.Stream(
            data, order, sharding=(sharding, NamedSharding(mesh, P()), sharding)
        )
    elif kind == "plain":
        stream = metagrad.Stream(arrays, order)
    elif kind == "sink":
        stream = metagrad.Stream(batches, sharding=sharding, gradients=lambda t, gradient: None)
    if options.resume:
        keywords |= {"resume_dir": options.resume, "save_every": 0}
    positions = []

    def report(now):
        positions.append(now.advanced + now.reversed)
        is_last = options.index == options.count - 1
        if options.die is not None and is_last and positions[-1] >= options.die:
            os.kill(os.getpid(), signal.SIGKILL)

    mg = step.metagradient(small.outer, wrt, progress=report, **keywords)
    lowered = mg.lower(state, weights, stream, held_out)
    if not options.own_plan:
        plans.with_plan(lowered, LENGTH, SLOTS, TIERS)
    result = lowered.compile()(state, weights, stream, held_out)
    return result, {"asked": np.array(sorted(data.asked)), "first": np.array(positions[:1])}


def whole(array):
    """An array that is on the devices of several processes, on the host of each."""
    import jax
    import numpy as np
    from jax.experimental import multihost_utils

    if not isinstance(array, jax.Array) or array.is_fully_replicated or array.is_fully_addressable:
        return np.asarray(array)
    return np.asarray(multihost_utils.process_allgather(array, tiled=True))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["fused", "streamed"])
    parser.add_argument("output", type=pathlib.Path)
    parser.add_argument("port", type=int)
    parser.add_argument("index", type=int)
    parser.add_argument("count", type=int)
    parser.add_argument("--source", default="dataset")
    parser.add_argument("--wrt", default="meta,state")
    parser.add_argument("--resume", type=pathlib.Path)
    parser.add_argument("--die", type=int)
    parser.add_argument("--pause", type=float, default=0.0)
    for flag in ("verify", "replicated", "nan", "own-plan"):
        parser.add_argument(f"--{flag}", action="store_true")
    options = parser.parse_args()
    begin(options)
    import jax
    import numpy as np

    result, more = run(options)
    leaves = [leaf for leaf in jax.tree.leaves(result) if leaf.dtype != jax.dtypes.float0]
    arrays = {f"{i:03d}": whole(leaf) for i, leaf in enumerate(leaves)}
    np.savez(f"{options.output}.{options.index}.npz", **arrays, **more)


if __name__ == "__main__":
    main()
