"""What all tiers do."""

import os
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from slot_states import TIERS, assert_same, avals, state

from metagrad.runtime.tiers.errors import BudgetError
from metagrad.runtime.tiers.regions import Regions

each_tier = pytest.mark.parametrize("kind", TIERS)


@each_tier
def test_round_trip(make, kind):
    first, second = state(1), state(2)
    tier = make(kind)
    tier.allocate(3, avals(first))
    tier.write(2, first)
    tier.write(0, second)
    tier.flush()
    tier.prefetch(0)
    for slot, expected in ((0, second), (2, first), (2, first), (0, second)):
        assert_same(tier.read(slot), expected)


@each_tier
def test_arrays_come_back_committed_or_not_as_they_were(make, kind):
    arrays = [jnp.arange(3), jax.device_put(np.arange(3), jax.devices()[0])]
    tier = make(kind)
    tier.allocate(1, avals(arrays))
    tier.write(0, arrays)
    tier.flush()
    committed = [array.committed for array in tier.read(0)]
    # Pinned memory belongs to a device, and JAX commits what it copies from there.
    assert committed == ([True, True] if kind == "pinned host" else [False, True])


def test_pinned_memory_is_for_arrays_of_a_device(make):
    tier = make("pinned host")
    tier.allocate(1, avals([np.zeros(3)]))
    with pytest.raises(TypeError, match=r"array 0 for slot 0 .* put it there with jax.device_put"):
        tier.write(0, [np.zeros(3)])


@pytest.mark.parametrize("kind", [kind for kind in TIERS if kind != "pinned host"])
def test_numpy_arrays_stay_numpy_arrays(make, kind):
    arrays = [np.arange(6.0).reshape(2, 3).T, np.zeros((2, 0), jax.dtypes.float0)]
    tier = make(kind)
    tier.allocate(1, avals(arrays))
    tier.write(0, arrays)
    tier.flush()
    assert_same(tier.read(0), arrays)


@each_tier
@pytest.mark.parametrize("seed", range(3))
def test_any_order_of_calls(make, kind, seed):
    """Against a dictionary; values are those of the number of the write."""
    chance = random.Random(seed)
    tier, expected = make(kind), {}
    arrays = lambda number: [jnp.full((300, 7), number), jnp.int32(number)]
    tier.allocate(4, avals(arrays(0)))
    for number in range(120):
        slot = chance.randrange(4)
        call = chance.choice(("write", "write", "read", "read", "prefetch", "free", "flush"))
        if call == "write":
            tier.write(slot, arrays(number))
            expected[slot] = number
        elif call == "free":
            tier.free(slot)
            expected.pop(slot, None)
        elif call == "flush":
            tier.flush()
        elif slot not in expected:
            with pytest.raises(ValueError, match=f"nothing is in slot {slot} of the"):
                getattr(tier, call)(slot)
        elif call == "prefetch":
            tier.prefetch(slot)
        else:
            assert_same(tier.read(slot), arrays(expected[slot]))
        assert tier.bytes_in_use == len(expected) * tier.slot_bytes


@each_tier
def test_the_budget(make, kind):
    arrays = [jnp.zeros(1024), jnp.zeros(1024)]
    name = kind.split()[-1 if kind == "pinned host" else 0]
    tier = make(kind, 20_000)
    argument = {"device": "memory="}.get(name, f"{name}=")
    with pytest.raises(
        BudgetError,
        match=rf"3 slots of 8.00 KiB take 24.0 KiB, but the {name} tier may take 19.5 KiB, which "
        rf"is 2 of them. Give {argument} more, or use a schedule with fewer slots",
    ):
        tier.allocate(3, avals(arrays))
    with pytest.raises(ValueError, match="has 0 slots"):
        tier.write(0, arrays)
    tier.allocate(2, avals(arrays))
    tier.write(1, arrays)
    assert_same(tier.read(1), arrays)


@each_tier
def test_double_precision_of_this_thread_alone(make, kind):
    with jax.enable_x64(True):
        arrays = [jnp.arange(3.0) / 3, jnp.int64(2**40), jax.device_put(1 / 3, jax.devices()[0])]
        assert all(array.dtype.itemsize == 8 for array in arrays)
        tier = make(kind)
        tier.allocate(1, avals(arrays))
        tier.write(0, arrays)
        tier.flush()
        assert_same(tier.read(0), arrays)


@each_tier
@pytest.mark.parametrize("slots", (0, 2))
def test_states_without_bytes(make, kind, slots):
    tier = make(kind, 0)
    tier.allocate(slots, [])
    for slot in range(slots):
        tier.write(slot, [])
        tier.flush()
        assert tier.read(slot) == []


@each_tier
def test_misuse(make, kind):
    tier = make(kind)
    tier.allocate(2, avals([jnp.zeros(3), jnp.zeros(2)]))
    for call in (tier.read, tier.prefetch):
        with pytest.raises(ValueError, match="nothing is in slot 1"):
            call(1)
    for call in (tier.read, tier.prefetch, tier.free):
        with pytest.raises(ValueError, match="has 2 slots, and slot 2 is none of them"):
            call(2)
    with pytest.raises(ValueError, match="has 2 slots, and slot -1 is none of them"):
        tier.write(-1, [jnp.zeros(3), jnp.zeros(2)])
    with pytest.raises(ValueError, match=r"slot 0 of the .* tier takes 2 arrays, got 1"):
        tier.write(0, [jnp.zeros(3)])
    with pytest.raises(ValueError, match=r"array 1 .* must be float32\[2\], got int32\[2\]"):
        tier.write(0, [jnp.zeros(3), jnp.zeros(2, int)])


@each_tier
def test_allocate_again_and_close_again(make, kind):
    tier = make(kind)
    tier.allocate(2, avals([jnp.zeros(3)]))
    tier.write(0, [jnp.ones(3)])
    tier.allocate(1, avals([jnp.zeros((2, 2))]))
    assert tier.bytes_in_use == 0
    tier.write(0, [jnp.ones((2, 2))])
    assert_same(tier.read(0), [jnp.ones((2, 2))])
    with tier:
        pass
    tier.close()
    assert tier.bytes_in_use == 0


@each_tier
def test_what_was_moved_is_counted(make, kind):
    tier = make(kind)
    tier.allocate(2, avals([jnp.zeros(1024)]))
    for slot in (0, 1):
        tier.write(slot, [jnp.ones(1024)])
    tier.flush()
    tier.read(0)
    moved = 4096 if tier.copies else 0
    assert tier.traffic.bytes_written == 2 * moved
    assert tier.traffic.bytes_read == moved
    assert tier.traffic.seconds_waited >= 0


@pytest.mark.usefixtures("others_stay")
@pytest.mark.parametrize("kind", ("disk", "host buffers"))
def test_nothing_is_left_of_many_tiers(make, kind):
    descriptors = lambda: len(os.listdir("/proc/self/fd"))
    arrays = [jnp.ones(100)]
    before = descriptors()
    for _ in range(30):
        with make(kind) as tier:
            tier.allocate(2, avals(arrays))
            tier.write(0, arrays)
            tier.write(1, arrays)
            tier.flush()
            tier.prefetch(1)
    assert descriptors() == before


@pytest.mark.parametrize("kind", [kind for kind in TIERS if kind not in ("device", "host")])
def test_donated_after_the_flush(make, kind):
    arrays = [jnp.arange(1024.0)]
    tier = make(kind)
    assert tier.copies
    tier.allocate(1, avals(arrays))
    tier.write(0, arrays)
    tier.flush()
    moved = jax.jit(lambda x: x + 1, donate_argnums=0)(arrays[0])
    assert arrays[0].is_deleted() and moved[0] == 1
    assert_same(tier.read(0), [jnp.arange(1024.0)])
    # What was read may be donated as well, and does not change what the next read gives.
    jax.jit(lambda x: x + 1, donate_argnums=0)(tier.read(0)[0])
    assert_same(tier.read(0), [jnp.arange(1024.0)])


@pytest.mark.parametrize("kind", ("disk", "host buffers"))
def test_memory_of_arrays_is_not_used_again(make, kind):
    """Reads reuse memory. Arrays that are still there, or went into a donation, keep theirs."""
    values = lambda number: [jnp.full((64, 64), number), jnp.full(3, -number)]
    double = jax.jit(lambda arrays: [array * 2 for array in arrays], donate_argnums=0)
    same = jax.jit(lambda arrays: arrays, donate_argnums=0)
    tier = make(kind)
    tier.allocate(8, avals(values(0.0)))
    for slot in range(8):
        tier.write(slot, values(float(slot)))
    tier.flush()
    results, expected = [], []
    for turn in range(40):
        slot, factor = turn % 8, 1
        arrays = tier.read(slot)
        if turn % 4 == 1:
            arrays, factor = double(arrays), 2
        elif turn % 4 == 2:
            arrays = same(arrays)
        elif turn % 4 == 3:
            arrays[0] = None  # The other one keeps the memory.
        results.append(arrays)
        expected.append([factor * slot, -factor * slot])
        if turn % 3 == 0:
            results.pop(0)
            expected.pop(0)
    for arrays, numbers in zip(results, expected):
        for array, number in zip(arrays, numbers):
            assert array is None or bool((array == number).all())


def test_regions():
    regions = Regions(10_000, 1)
    first, second = regions.take(), regions.take()
    assert len(first) == 10_000 and not first.ctypes.data % 4096
    place, view = first.ctypes.data, first[64:128].view(np.float32)
    del first
    assert regions.take().ctypes.data != place
    del view
    again = [regions.take() for _ in range(3)]
    assert place in [region.ctypes.data for region in again]
    assert second.ctypes.data not in [region.ctypes.data for region in again]
    del again
    assert len(regions._free) == 1
    regions.close()
    del second
    assert not regions._free
