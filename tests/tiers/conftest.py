"""The tiers."""

import threading

import pytest

from metagrad.runtime.tiers import slot_file
from metagrad.runtime.tiers.device import DeviceTier
from metagrad.runtime.tiers.disk import DiskTier
from metagrad.runtime.tiers.host import HostBuffers, PinnedHostTier, host_tier


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
