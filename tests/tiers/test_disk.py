"""The tier on disk: what damages it, what fills it, and directories that do not serve."""

import ctypes
import errno
import os
import resource
import subprocess

import jax.numpy as jnp
import numpy as np
import pytest
from slot_states import assert_same, avals

from metagrad.runtime.tiers import slot_file
from metagrad.runtime.tiers.disk import DiskTier
from metagrad.runtime.tiers.errors import DamagedSlotError, SlotError

ARRAYS = [jnp.arange(3000.0), jnp.arange(7)]


def arrays(number):
    return [array + number for array in ARRAYS]


@pytest.fixture
def tier(tmp_path):
    with DiskTier(tmp_path) as tier:
        tier.allocate(3, avals(ARRAYS))
        yield tier


@pytest.mark.parametrize("place", (0, 11_999, 12_027))
def test_a_damaged_slot(tier, tmp_path, place):
    """In the first byte, in the last one of an array, in the last one of all."""
    for slot in range(3):
        tier.write(slot, arrays(slot))
    tier.flush()
    block = np.empty(tier.slot_bytes, np.uint8)
    descriptor = os.open(f"/proc/self/fd/{tier._file.descriptor}", os.O_RDWR)
    os.preadv(descriptor, [block], tier.slot_bytes)
    block[place] ^= 1
    os.pwrite(descriptor, block, tier.slot_bytes)
    os.close(descriptor)
    tier.prefetch(1)
    for _ in range(2):
        with pytest.raises(DamagedSlotError, match=r"slot 1 of the disk tier.* does not have") as e:
            tier.read(1)
        assert str(tmp_path) in str(e.value)
    assert_same(tier.read(0), arrays(0))
    assert_same(tier.read(2), arrays(2))
    tier.write(1, arrays(5))
    tier.flush()
    assert_same(tier.read(1), arrays(5))


def test_a_file_that_is_cut_off(tier):
    tier.write(2, arrays(2))
    tier.flush()
    os.ftruncate(tier._file.descriptor, tier.slot_bytes)
    with pytest.raises(DamagedSlotError, match="slot 2"):
        tier.read(2)


def test_bytes_of_another_slot_are_damage(tier):
    for slot in range(2):
        tier.write(slot, arrays(slot))
    tier.flush()
    tier._file._checksums.reverse()
    with pytest.raises(DamagedSlotError, match="slot 0"):
        tier.read(0)


def test_a_disk_that_is_too_small(tmp_path):
    with DiskTier(tmp_path, free=lambda directory: 30_000) as tier:
        with pytest.raises(
            SlotError,
            match=r"3 slots of 12.0 KiB cannot be made in .*: No space left on device. It takes "
            r"36.0 KiB, 29.3 KiB are free. Make room there, name another directory",
        ) as e:
            tier.allocate(3, avals(ARRAYS))
        assert e.value.errno == errno.ENOSPC and str(tmp_path) in str(e.value)
        with pytest.raises(ValueError, match="has 0 slots"):
            tier.write(0, ARRAYS)
        tier.allocate(2, avals(ARRAYS))
        tier.write(0, ARRAYS)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", (errno.ENOSPC, errno.EIO))
def test_a_write_that_fails_shows_at_the_next_call(tier, monkeypatch, number):
    tier.write(0, arrays(0))
    tier.flush()
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", lambda *_: raise_os_error(number))
        tier.write(1, arrays(1))
        with pytest.raises(SlotError, match="slot 1 of the disk tier cannot be written in") as e:
            tier.flush()
    assert e.value.errno == number and os.strerror(number) in str(e.value)
    assert "The other slots are good." in str(e.value)
    assert_same(tier.read(0), arrays(0))
    with pytest.raises(SlotError, match="slot 1 of the disk tier cannot be written"):
        tier.read(1)
    tier.write(1, arrays(3))
    tier.flush()
    assert_same(tier.read(1), arrays(3))


def raise_os_error(number):
    raise OSError(number, os.strerror(number))


def test_a_read_that_fails(tier, monkeypatch):
    tier.write(0, arrays(0))
    tier.flush()
    with monkeypatch.context() as patch:
        patch.setattr(os, "preadv", lambda *_: raise_os_error(errno.EIO))
        with pytest.raises(SlotError, match="slot 0 of the disk tier cannot be read in"):
            tier.read(0)
    assert_same(tier.read(0), arrays(0))


def test_arrays_that_cannot_be_had(tier):
    """The error of a computation, or of arrays that were donated too early, passes through."""
    tier.write(0, arrays(0))
    tier.flush()
    gone = arrays(1)
    gone[1].delete()
    tier.write(1, gone)
    with pytest.raises(RuntimeError, match="deleted") as e:
        tier.flush()
    assert e.value.__notes__ == [
        "The error is that of the arrays that were written to slot 1 of the disk tier."
    ]
    assert_same(tier.read(0), arrays(0))


@pytest.mark.parametrize("call", ("pwrite", "preadv"))
def test_short_writes_and_reads_go_on(tier, monkeypatch, call):
    if call == "pwrite":
        pwrite = os.pwrite
        monkeypatch.setattr(os, "pwrite", lambda fd, data, at: pwrite(fd, data[:4096], at))
    else:
        preadv = os.preadv
        monkeypatch.setattr(os, "preadv", lambda fd, data, at: preadv(fd, [data[0][:4096]], at))
    tier.write(0, arrays(0))
    tier.flush()
    assert_same(tier.read(0), arrays(0))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absent", "No such file or directory.*Name a directory that exists."),
        ("file", "Not a directory.*Name a directory."),
    ],
)
def test_a_directory_that_is_none(tmp_path, name, message):
    (tmp_path / "file").touch()
    with DiskTier(tmp_path / name) as tier, pytest.raises(SlotError, match=message) as e:
        tier.allocate(1, avals(ARRAYS))
    assert str(tmp_path / name) in str(e.value)


def test_a_directory_that_cannot_be_written(tmp_path, monkeypatch):
    if os.geteuid():
        tmp_path.chmod(0o500)
    else:  # Root may write everywhere.
        monkeypatch.setattr(
            slot_file, "_unnamed_file", lambda directory: raise_os_error(errno.EACCES)
        )
    with (
        DiskTier(tmp_path) as tier,
        pytest.raises(SlotError, match=r"Permission denied.*Name a directory that this user can"),
    ):
        tier.allocate(1, avals(ARRAYS))
    tmp_path.chmod(0o700)


def test_a_limit_on_the_size_of_files(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with DiskTier(tmp_path) as tier:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
        try:
            with pytest.raises(SlotError, match=r"File too large.*raise `ulimit -f`"):
                tier.allocate(3, avals(ARRAYS))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_is_full(tmp_path):
    """A real one, in memory, of 1 MiB; it takes the right to mount."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=1M", "none", str(tmp_path)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this user may not mount")
    try:
        with DiskTier(tmp_path, free=lambda directory: 2**40) as tier:
            with pytest.raises(SlotError, match="No space left on device"):
                tier.allocate(100, avals(ARRAYS))
            tier.allocate(50, avals(ARRAYS))
            tier.write(49, arrays(49))
            tier.flush()
            assert_same(tier.read(49), arrays(49))
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_file_system_without_blocks_to_take(tier, tmp_path, monkeypatch):
    class Libc:
        def fallocate64(self, *_):
            ctypes.set_errno(errno.EOPNOTSUPP)
            return -1

    monkeypatch.setattr(slot_file.ctypes, "CDLL", lambda *_, **__: Libc())
    tier.allocate(2, avals(ARRAYS))
    tier.write(1, arrays(1))
    tier.flush()
    assert_same(tier.read(1), arrays(1))
    assert os.fstat(tier._file.descriptor).st_size == 2 * tier.slot_bytes
