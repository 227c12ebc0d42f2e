"""States on several devices keep their shardings in every tier."""

import os
import subprocess
import sys
import textwrap

PROGRAM = """
    import sys
    import jax, jax.numpy as jnp, numpy as np
    from jax.sharding import NamedSharding, PartitionSpec as P, SingleDeviceSharding
    from metagrad.runtime.tiers.device import DeviceTier
    from metagrad.runtime.tiers.disk import DiskTier
    from metagrad.runtime.tiers.host import HostBuffers, PinnedHostTier

    devices = np.array(jax.devices())
    assert len(devices) == 8
    mesh = jax.sharding.Mesh(devices.reshape(4, 2), ("a", "b"))
    turned = jax.sharding.Mesh(devices[::-1].reshape(2, 4), ("a", "b"))
    put = lambda x, mesh, *axes: jax.device_put(x, NamedSharding(mesh, P(*axes)))
    matrix = jnp.arange(128.0).reshape(16, 8)
    arrays = [
        put(matrix, mesh, "a", "b"),
        put(matrix, mesh, None, "b"),  # copies on four devices each
        put(matrix, turned, ("b", "a")),
        put(matrix, mesh),  # a copy on each device
        put(jnp.float32(3), turned),
        put(jax.random.split(jax.random.key(0), 8), mesh, ("a", "b")),
        jax.device_put(matrix, devices[5]),
        jnp.arange(3),
    ]
    halve = jax.jit(lambda x: 2 * x - x)
    for tier in (DeviceTier(), HostBuffers(), PinnedHostTier(), DiskTier(sys.argv[1])):
        with tier:
            tier.allocate(2, arrays)
            tier.write(1, arrays)
            tier.flush()
            for _ in range(2):
                for array, expected in zip(tier.read(1), arrays, strict=True):
                    assert array.sharding == expected.sharding, (tier, array.sharding)
                    assert array.dtype == expected.dtype
                    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
                        array, expected = map(jax.random.key_data, (array, expected))
                    shards = array.addressable_shards
                    for shard, other in zip(shards, expected.addressable_shards, strict=True):
                        assert shard.device == other.device and shard.index == other.index
                        assert np.array_equal(shard.data, other.data)
                    assert halve(array).sharding.is_equivalent_to(array.sharding, array.ndim)
            # Copies are written once.
            if tier.copies:
                assert tier.traffic.bytes_written == tier.slot_bytes
    print(tier.slot_bytes)
"""


def test_shardings_survive(tmp_path):
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM), str(tmp_path)],
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert not done.returncode, done.stderr
    assert done.stdout == "4096\n"
