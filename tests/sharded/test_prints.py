"""`jax.debug.print` on several devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import metagrad
from sharded import networks

BATCHES = np.linspace(-1, 1, 24).reshape(3, 8).astype(np.float32)


@pytest.mark.parametrize("axes", [AxisType.Auto, AxisType.Explicit])
def test_whole_values_are_printed_once(axes, capfd):
    mesh = networks.mesh_of("data", axes)
    put = lambda x, *spec: jax.device_put(x, NamedSharding(mesh, P(*spec)))

    def step(w, m, b):
        jax.debug.print("sum {:.4f}", jnp.sum(w))
        return w - m * metagrad.grad(lambda w: jnp.sum(jnp.tanh(b * w) ** 2))(w)

    def outer(w):
        jax.debug.print("largest {:.4f}", jnp.max(w))
        return jnp.sum(w**2)

    arguments = put(np.linspace(0.5, 1.5, 8, dtype=np.float32), "data"), put(np.float32(0.1))
    mg = metagrad.compile(step).metagradient(outer, schedule=metagrad.StoreAll())
    mg(*arguments, put(BATCHES, None, "data"))
    jax.effects_barrier()
    ours = sorted(capfd.readouterr().out.splitlines())

    def plain(w, m, b):
        return outer(jax.lax.scan(lambda w, b: (step(w, m, b), None), w, b)[0])

    jax.jit(plain)(*arguments, put(BATCHES, None, "data"))
    jax.effects_barrier()
    assert ours == sorted(capfd.readouterr().out.splitlines())
    assert len(ours) == 4


def test_each_device_prints_its_part_in_shard_map(capfd):
    mesh = networks.mesh_of("data")

    def doubled(x):
        jax.debug.print("part {:.3f}", x[0])
        return 2 * x

    split = jax.shard_map(doubled, mesh=mesh, in_specs=P("data"), out_specs=P("data"))
    step = lambda w, m, b: w - m * b * split(w)
    mg = metagrad.compile(step).metagradient(jnp.sum, schedule=metagrad.StoreAll())
    w = jax.device_put(np.arange(8, dtype=np.float32), NamedSharding(mesh, P("data")))
    mg(w, np.float32(0), BATCHES)
    jax.effects_barrier()
    parts = capfd.readouterr().out.splitlines()
    assert sorted(parts) == sorted(3 * [f"part {i}.000" for i in range(8)])
