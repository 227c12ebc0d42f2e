"""States for slots, and what it means that two are the same."""

import jax
import jax.numpy as jnp
import numpy as np

TIERS = ("device", "host", "host buffers", "pinned host", "disk", "disk through the cache")


def state(seed=0):
    """Arrays of many kinds, some of them larger than what one call of the system moves."""
    key = jax.random.key(seed)
    return [
        jax.random.normal(key, (1000, 1300)),
        jax.random.normal(key, (7, 3)).astype(jnp.bfloat16),
        jnp.zeros((0, 4)),
        jax.random.bits(key, (1001,), jnp.uint8),
        jnp.float32(seed),
        jax.random.bernoulli(key, shape=(5, 5)),
        jax.random.split(key, 3),
        jax.device_put(jnp.arange(5) + seed, jax.devices()[0]),
    ]


def avals(arrays):
    return [jax.ShapeDtypeStruct(array.shape, array.dtype) for array in arrays]


def bits(array):
    """The bytes of an array; of an array of keys, those of its words."""
    if jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key):
        array = jax.random.key_data(array)
    return np.asarray(array).tobytes()


def assert_same(arrays, expected):
    assert len(arrays) == len(expected)
    for array, other in zip(arrays, expected):
        assert type(array) is type(other)
        assert array.dtype == other.dtype and array.shape == other.shape
        assert bits(array) == bits(other)
        if isinstance(other, jax.Array):
            assert array.sharding == other.sharding
