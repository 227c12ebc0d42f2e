"""The tiers, and a state for them."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metagrad.runtime.tiers import slot_file
from metagrad.runtime.tiers.device import DeviceTier
from metagrad.runtime.tiers.disk import DiskTier
from metagrad.runtime.tiers.host import HostBuffers, PinnedHostTier, host_tier

TIERS = ("device", "host", "host buffers", "pinned host", "disk", "disk through the cache")


@pytest.fixture(autouse=True)
def nothing_is_left():
    """No thread of a tier outlives a test."""
    yield
    left = [thread.name for thread in threading.enumerate() if "metagrad-" in thread.name]
    assert not left


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Makes a tier of a kind; it is closed at the end."""
    made = []

    def make(kind, budget=None, **options):
        if kind == "disk through the cache":
            monkeypatch.setattr(slot_file, "_go_past_the_cache", lambda descriptor: False)
        made.append(
            {
                "device": DeviceTier,
                "host": host_tier,
                "host buffers": HostBuffers,
                "pinned host": PinnedHostTier,
                "disk": lambda *arguments, **options: DiskTier(tmp_path, *arguments, **options),
                "disk through the cache": lambda *arguments: DiskTier(tmp_path, *arguments),
            }[kind](budget, **options)
        )
        return made[-1]

    yield make
    for tier in made:
        tier.close()


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
