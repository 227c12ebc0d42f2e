"""Slots of a plan over several tiers."""

import jax.numpy as jnp
import pytest
from slot_states import assert_same, avals

from metagrad.runtime.tiers.device import DeviceTier
from metagrad.runtime.tiers.disk import DiskTier
from metagrad.runtime.tiers.errors import BudgetError
from metagrad.runtime.tiers.host import HostBuffers
from metagrad.runtime.tiers.placed_slots import PlacedSlots


def arrays(number):
    return [jnp.full(1000, number), jnp.float32(number)]


def test_each_slot_is_in_its_tier(tmp_path):
    device, host, disk = DeviceTier(), HostBuffers(), DiskTier(tmp_path)
    tiers = [device, host, disk, disk, device, host, disk]
    with PlacedSlots([device, host, disk], [0, 1, 2, 2, 0, 1, 2]) as slots:
        slots.allocate(avals(arrays(0)))
        assert [tier.slots for tier in slots.tiers] == [2, 2, 3]
        assert [slots.tier(slot) for slot in range(7)] == tiers
        for slot in range(7):
            slots.write(slot, arrays(slot))
        slots.flush()
        slots.prefetch(6)
        for slot in reversed(range(7)):
            assert_same(slots.read(slot), arrays(slot))
        slots.free(3)
        state = device.slot_bytes
        assert (host.slot_bytes, disk.slot_bytes) == (4096, 4096)
        assert slots.bytes_in_use == {"device": 2 * state, "host": 8192, "disk": 8192}
    assert slots.bytes_in_use == {"device": 0, "host": 0, "disk": 0}


def test_a_budget_of_one_of_them(tmp_path):
    with (
        PlacedSlots([DeviceTier(4003), DiskTier(tmp_path)], [0, 1]) as slots,
        pytest.raises(BudgetError, match=r"1 slot of 3.91 KiB .* the device tier may take"),
    ):
        slots.allocate(avals(arrays(0)))


def test_all_are_closed_if_closing_one_fails(tmp_path, monkeypatch):
    first, second = DiskTier(tmp_path), DiskTier(tmp_path)
    slots = PlacedSlots([first, second], [0, 1])
    slots.allocate(avals(arrays(0)))
    with monkeypatch.context() as patch:
        patch.setattr(second, "release", lambda: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            slots.close()
    assert first._file is None
    second.close()
