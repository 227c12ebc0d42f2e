"""The tier on disk: moves behind the compute, the memory they take, and what is left of a tier."""

import contextlib
import ctypes
import errno
import gc
import mmap
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import jax.numpy as jnp
import numpy as np
import pytest
from slot_states import assert_same, avals

from metagrad.runtime.tiers import background, disk, slot_file
from metagrad.runtime.tiers.disk import DiskTier
from metagrad.runtime.tiers.errors import SlotError
from metagrad.runtime.tiers.free_memory import in_memory

ARRAYS = [jnp.arange(3000.0), jnp.arange(7)]


def arrays(number):
    return [array + number for array in ARRAYS]


@pytest.fixture
def slow(monkeypatch):
    """Moves wait until this is set."""
    go = threading.Event()
    for name in ("write", "read"):
        call = getattr(slot_file.SlotFile, name)
        waits = lambda *arguments, call=call: (go.wait(10), call(*arguments))[1]
        monkeypatch.setattr(slot_file.SlotFile, name, waits)
    yield go
    go.set()


def test_a_slow_disk(tmp_path, slow):
    with DiskTier(tmp_path, timeout=0.05) as tier:
        tier.allocate(2, avals(ARRAYS))
        tier.write(1, arrays(1))
        with pytest.raises(
            SlotError, match=r"slot 1 of the disk tier was not written within 0.05 s"
        ) as e:
            tier.flush()
        assert e.value.errno == errno.ETIMEDOUT and str(tmp_path) in str(e.value)
        slow.set()
        tier.timeout = 10
        tier.flush()
        slow.clear()
        tier.timeout = 0.05
        with pytest.raises(SlotError, match=r"slot 1 of the disk tier was not read within 0.05 s"):
            tier.read(1)
        slow.set()
        tier.timeout = 10
        assert_same(tier.read(1), arrays(1))
        assert tier.traffic.seconds_waited > 0.09


def test_a_slow_computation_is_no_slow_disk(tmp_path, monkeypatch):
    take_apart = background.take_apart
    monkeypatch.setattr(
        background, "take_apart", lambda array: (time.sleep(0.4), take_apart(array))[1]
    )
    with DiskTier(tmp_path, timeout=0.5) as tier:
        tier.allocate(1, avals(ARRAYS))
        tier.write(0, arrays(0))
        tier.flush()
        assert_same(tier.read(0), arrays(0))


def test_calls_return_before_the_moves(tmp_path, slow):
    with DiskTier(tmp_path, pending=2, ahead=1, timeout=0.05) as tier:
        tier.allocate(4, avals(ARRAYS))
        tier.write(0, arrays(0))
        tier.write(1, arrays(1))
        # What is on its way out comes back at once; a third one would wait.
        assert_same(tier.read(1), arrays(1))
        with pytest.raises(SlotError, match="not written"):
            tier.write(2, arrays(2))
        slow.set()
        tier.timeout = 10
        tier.write(2, arrays(2))
        tier.flush()
        slow.clear()
        for slot in (0, 1, 2):
            tier.prefetch(slot)
        assert [slot for slot in range(3) if tier._contents[slot].fetched] == [0]
        slow.set()
        for slot in (0, 1, 2):
            assert_same(tier.read(slot), arrays(slot))


def test_a_tier_that_is_not_closed(tmp_path):
    """It goes with the last reference to it: its file, and its threads."""
    tier = DiskTier(tmp_path)
    tier.allocate(1, avals(ARRAYS))
    tier.write(0, arrays(0))
    tier.flush()
    tier.read(0)
    descriptor = tier._file.descriptor
    threads = [thread for thread in threading.enumerate() if "metagrad-" in thread.name]
    assert len(threads) == 2
    del tier
    gc.collect()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_slots_are_made_anew_while_moves_are_running(tmp_path, slow):
    with DiskTier(tmp_path) as tier:
        tier.allocate(3, avals(ARRAYS))
        slow.set()
        for slot in range(3):
            tier.write(slot, arrays(slot))
        tier.flush()
        slow.clear()
        tier.prefetch(0)
        tier.prefetch(1)
        tier.free(0)
        tier.write(2, arrays(5))
        threading.Timer(0.1, slow.set).start()
        tier.allocate(2, avals(ARRAYS))
        with pytest.raises(ValueError, match="nothing is in slot 1"):
            tier.read(1)
        tier.write(1, arrays(7))
        tier.flush()
        assert_same(tier.read(1), arrays(7))


def test_what_is_freed_in_time_is_not_written(tmp_path, slow):
    with DiskTier(tmp_path) as tier:
        tier.allocate(2, avals(ARRAYS))
        tier.write(0, arrays(0))
        tier.write(1, arrays(1))
        tier.free(1)
        slow.set()
        tier.flush()
        assert tier.traffic.bytes_written == tier.slot_bytes


def test_the_page_cache_does_not_grow(tmp_path, monkeypatch):
    if in_memory(tmp_path):
        pytest.skip("the directory is in memory")
    big = [jnp.ones(2_000_000)]
    for direct in (True, False):
        if not direct:
            monkeypatch.setattr(slot_file, "_go_past_the_cache", lambda descriptor: False)
        with DiskTier(tmp_path) as tier:
            tier.allocate(2, avals(big))
            for slot in (0, 1, 1):
                tier.write(slot, big)
                tier.flush()
                tier.read(slot)
            assert cached_pages(tier._file.descriptor, 2 * tier.slot_bytes) < 200


def cached_pages(descriptor, size):
    """How many pages of a file are in memory."""
    pages = np.zeros(-(-size // mmap.PAGESIZE), np.uint8)
    with mmap.mmap(descriptor, size) as mapped:
        place = np.frombuffer(mapped, np.uint8)
        mincore = ctypes.CDLL(None, use_errno=True).mincore
        mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]
        assert not mincore(place.ctypes.data, size, pages.ctypes.data)
        del place
    return int((pages & 1).sum())


def test_where_files_are(tmp_path, monkeypatch):
    monkeypatch.setenv("METAGRAD_SLOTS_DIR", str(tmp_path))
    assert disk.default_directory() == tmp_path
    monkeypatch.delenv("METAGRAD_SLOTS_DIR")
    monkeypatch.setattr(disk.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(disk, "in_memory", lambda directory: False)
    assert disk.default_directory() == tmp_path
    monkeypatch.setattr(disk, "in_memory", lambda directory: True)
    assert disk.default_directory() == tmp_path / "cache" / "metagrad" / "slots"


PROGRAM = """
    import os, pathlib, sys
    import jax.numpy as jnp
    from metagrad.runtime.tiers import slot_file
    from metagrad.runtime.tiers.disk import DiskTier
    if "named" in sys.argv:
        slot_file.os.O_TMPFILE = 0
    tier = DiskTier(sys.argv[1])
    arrays = [jnp.ones(1000)]
    tier.allocate(3, arrays)
    tier.write(0, arrays)
    tier.prefetch(0)
    print("written", flush=True)
"""


@pytest.mark.parametrize("named", ("named", ""))
@pytest.mark.parametrize("end", ("", "raise KeyError('end')", "input()"))
def test_nothing_is_left_of_a_process(tmp_path, end, named):
    """Also of one that does not close the tier, fails, or is killed."""
    program = textwrap.dedent(PROGRAM) + end
    words = [sys.executable, "-c", program, str(tmp_path), named]
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "written\n"
        if end == "input()":
            process.send_signal(signal.SIGKILL)
        _, errors = process.communicate(timeout=20)
    assert ("KeyError: 'end'" in errors) == ("KeyError" in end)
    assert process.returncode == {"": 0, "input()": -signal.SIGKILL}.get(end, 1)
    assert not list(tmp_path.iterdir())


MEMORY = """
    import re, sys
    import jax, jax.numpy as jnp
    from metagrad.runtime.tiers.disk import DiskTier

    def resident(field):
        status = open("/proc/self/status").read()
        return int(re.search(field + r":\\s*(\\d+) kB", status)[1]) << 10

    step = jax.jit(lambda arrays: [leaf * 0.999 for leaf in arrays])
    arrays = [jnp.ones((250, 1000))] * 4
    jax.block_until_ready(step(arrays))
    with DiskTier(sys.argv[1]) as tier:
        tier.allocate(80, arrays)
        tier.write(0, arrays)
        tier.flush()
        jax.block_until_ready(tier.read(0))
        open("/proc/self/clear_refs", "w").write("5")  # VmHWM begins anew
        before = resident("VmRSS")
        for slot in range(80):
            tier.write(slot, arrays)
            arrays = jax.block_until_ready(step(arrays))
        for slot in reversed(range(80)):
            if slot:
                tier.prefetch(slot - 1)
            jax.block_until_ready(step(tier.read(slot)))
            tier.free(slot)
        print(resident("VmHWM") - before, tier.transit_bytes, tier.slot_bytes)
"""


def test_memory_is_bounded(tmp_path):
    """320 MB of slots: in memory are states on their way, the step's own, and what malloc keeps."""
    words = [sys.executable, "-c", textwrap.dedent(MEMORY), str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60)
    grown, transit, state = map(int, done.stdout.split())
    assert (transit, state) == (5 * state + slot_file.CHUNK, 4_001_792)
    assert grown < 80e6


def test_an_interrupt_while_a_call_waits(tmp_path, slow):
    """Ctrl-C ends a wait; what was written before is good."""
    with DiskTier(tmp_path) as tier:
        tier.allocate(2, avals(ARRAYS))
        tier.write(0, arrays(0))
        interrupt = threading.Timer(0.1, lambda: os.kill(os.getpid(), signal.SIGINT))
        interrupt.start()
        start = time.monotonic()
        with contextlib.suppress(KeyboardInterrupt):
            tier.flush()
        assert time.monotonic() - start < 5
        interrupt.join()
        slow.set()
        tier.flush()
        assert_same(tier.read(0), arrays(0))
