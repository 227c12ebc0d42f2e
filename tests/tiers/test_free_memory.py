"""What is free: on devices, in memory within control groups, on disks."""

import os
import types

import jax
import psutil
import pytest

from metagrad.runtime.tiers import free_memory
from metagrad.runtime.tiers.free_memory import device_free, disk_free, host_free, in_memory


def test_the_host_and_its_device():
    total = psutil.virtual_memory().total
    assert 0 < host_free() <= total
    assert 0 < device_free() <= total
    assert 0 < device_free(jax.devices("cpu")[0]) <= total


def test_a_device_that_says_what_it_has():
    gpu = types.SimpleNamespace(
        platform="gpu", memory_stats=lambda: {"bytes_limit": 1000, "bytes_in_use": 300}
    )
    assert device_free(gpu) == 700


@pytest.mark.parametrize("statistics", (None, {}))
def test_a_device_that_does_not(statistics):
    device = types.SimpleNamespace(platform="new", memory_stats=lambda: statistics)
    with pytest.raises(NotImplementedError, match="Say what may be used with memory="):
        device_free(device)


def test_a_directory(tmp_path):
    free = os.statvfs(tmp_path)
    assert disk_free(tmp_path) == pytest.approx(free.f_bavail * free.f_frsize, rel=0.1)
    with pytest.raises(FileNotFoundError):
        disk_free(tmp_path / "absent")


def test_directories_in_memory(monkeypatch):
    mounts = [("/", "ext4"), ("/a", "tmpfs"), ("/a/b", "ext4"), ("/c", "ext4"), ("/c", "tmpfs")]
    monkeypatch.setattr(
        free_memory.psutil,
        "disk_partitions",
        lambda all: [
            types.SimpleNamespace(mountpoint=place, fstype=kind) for place, kind in mounts
        ],
    )
    places = ("/", "/ab", "/a", "/a/c", "/a/b", "/a/b/c", "/c/d")
    assert [in_memory(place) for place in places] == [False, False, True, True, False, False, True]


def group(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)


def test_groups_of_version_2(tmp_path):
    """Each group on the way has a limit of its own; memory of files counts as free."""
    group(tmp_path, {})
    group(
        tmp_path / "job",
        {
            "memory.max": "5000\n",
            "memory.current": "3000\n",
            "memory.stat": "anon 1\ninactive_file 500\n",
        },
    )
    group(
        tmp_path / "job" / "step",
        {"memory.max": "max\n", "memory.current": "100\n", "memory.stat": "inactive_file 0\n"},
    )
    assert free_memory._left(tmp_path, ["0::/job/step"]) == [2500]
    assert free_memory._left(tmp_path, ["0::/other"]) == []


def test_groups_of_version_1(tmp_path):
    files = {
        "memory.limit_in_bytes": "900\n",
        "memory.usage_in_bytes": "400\n",
        "memory.stat": "total_inactive_file 100\n",
    }
    group(tmp_path / "memory", files)
    # Inside a container the path of the group is that outside, and its files are at the top.
    assert free_memory._left(tmp_path, ["9:cpu:/x", "4:memory:/x/y", "0::/"]) == [600]


def test_the_least_of_all_counts(monkeypatch):
    monkeypatch.setattr(free_memory, "_left_in_groups", lambda: [10**30, 1234, 5000])
    assert host_free() == 1234
    monkeypatch.setattr(free_memory, "_left_in_groups", lambda: [-5])
    assert host_free() == 0
