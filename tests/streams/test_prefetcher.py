"""Segments are read ahead in threads, in bounded memory; errors come to the one who takes."""

import signal
import subprocess
import sys
import threading
import time

import jax
import numpy as np
import pytest

from metagrad import Stream
from metagrad.runtime.streams import Checksums, Prefetcher

X = np.arange(40.0, dtype=np.float32).reshape(20, 2)
REQUESTS = [(0, 4), (4, 4), (8, 2), (4, 4), (0, 4)]


@pytest.fixture(autouse=True)
def no_thread_is_left():
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


class Batches:
    """Ten batches of two rows; notes what is asked, by which thread, and how many at a time."""

    def __init__(self, fails_at=None, delay=0.0):
        self.asked, self.threads, self.inside, self.most = [], set(), 0, 0
        self.fails_at, self.delay = fails_at, delay
        self.lock = threading.Lock()

    def __len__(self):
        return 10

    def __getitem__(self, t):
        with self.lock:
            self.asked.append(t)
            self.threads.add(threading.current_thread().name)
            self.inside += 1
            self.most = max(self.most, self.inside)
        time.sleep(self.delay)
        with self.lock:
            self.inside -= 1
        if t == self.fails_at:
            raise KeyError(f"no batch {t}")
        return X[2 * t : 2 * t + 2]


def wait_until(condition):
    until = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.001)


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("depth", [1, 2, 9])
@pytest.mark.parametrize("kind", ["arrays", "batches"])
def test_segments_come_in_order_and_ragged_ones_end_in_zeros(kind, depth, workers, monkeypatch):
    def full_of_sevens(shape, dtype):
        return np.full(shape, 7, dtype)

    monkeypatch.setattr("metagrad.runtime.streams.prefetcher.empty_for_xla", full_of_sevens)
    source, order = (X, np.arange(20).reshape(10, 2)) if kind == "arrays" else (Batches(), None)
    stream = Stream(source, order, workers=workers)
    with Prefetcher(stream, iter(REQUESTS), 4, depth=depth) as prefetcher:
        for first, count in REQUESTS:
            (leaf,) = prefetcher.take()
            assert type(leaf) is np.ndarray and leaf.shape == (4, 2, 2)
            assert (leaf[:count] == X.reshape(10, 2, 2)[first : first + count]).all()
            assert not leaf[count:].any()
        with pytest.raises(ValueError, match="all segments that were requested have been taken"):
            prefetcher.take()


def test_segments_are_placed_in_the_thread_and_no_copy_is_made():
    def place(array):
        placed_by.add(threading.current_thread().name)
        arrays.append(array)
        return jax.device_put(array)

    placed_by, arrays = set(), []
    stream = Stream((np.zeros((64, 1024), np.float32),))
    with Prefetcher(stream, [(0, 32), (32, 32)], 32, place=place) as prefetcher:
        for taken in range(2):
            (leaf,) = prefetcher.take()
            assert isinstance(leaf, jax.Array) and leaf.shape == (32, 1024)
            assert leaf.unsafe_buffer_pointer() == arrays[taken].ctypes.data
    assert threading.current_thread().name not in placed_by and len(placed_by) == 1


def test_no_more_than_depth_segments_are_read_ahead():
    source = Batches()
    stream = Stream(source)
    with Prefetcher(stream, [(t, 1) for t in range(10)], 1, depth=2) as prefetcher:
        asked = lambda: source.asked[1:]  # without batch 0, for the layout
        wait_until(lambda: len(asked()) >= 2)
        time.sleep(0.02)
        assert asked() == [0, 1]
        prefetcher.take()
        wait_until(lambda: len(asked()) >= 3)
        time.sleep(0.02)
        assert asked() == [0, 1, 2]


def test_one_thread_at_a_time_unless_the_user_allows_more():
    def run(workers):
        source = Batches(delay=0.002)
        stream = Stream(source, workers=workers)
        # Two runs at once, of one stream.
        with Prefetcher(stream, [(0, 10)], 10) as one, Prefetcher(stream, [(0, 10)], 10) as other:
            stream[3]
            one.take(), other.take()
        return source.most

    assert run(1) == 1
    assert run(4) > 2


def test_workers_share_a_segment():
    source = Batches(delay=0.01)
    stream = Stream(source, workers=5)
    _ = stream.aval
    with Prefetcher(stream, [(0, 10)], 10) as prefetcher:
        assert (prefetcher.take()[0].reshape(-1) == X.reshape(-1)).all()
    assert len({name for name in source.threads if name.startswith("metagrad-stream-reader")}) > 1


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("fails_at", [5, 9])
def test_an_error_of_the_source_comes_as_it_is(fails_at, workers):
    stream = Stream(Batches(fails_at), workers=workers)
    with Prefetcher(stream, [(0, 4), (4, 4), (8, 2)], 4) as prefetcher:
        prefetcher.take()
        with pytest.raises(KeyError) as caught:
            prefetcher.take()
            prefetcher.take()
    assert caught.value.args == (f"no batch {fails_at}",)
    assert caught.value.__notes__ == [f"batch {fails_at} of the stream"]


def test_an_error_of_the_first_batch_comes_before_there_are_threads():
    with pytest.raises(KeyError, match="no batch 0") as caught:
        Prefetcher(Stream(Batches(0)), [(0, 4)], 4)
    assert caught.value.__notes__ == ["batch 0 of the stream"]


@pytest.mark.parametrize("request_", [(0, 0), (0, 5), (9, 2), (-1, 2)])
def test_a_segment_that_there_is_not(request_):
    with pytest.raises(ValueError, match=r"no segment of at most 4 batches in 10 batches"):
        Prefetcher(Stream(Batches()), [request_], 4)


def test_an_error_of_place_comes_as_it_is():
    def place(array):
        raise MemoryError("the device is full")

    with (
        Prefetcher(Stream(Batches()), [(0, 4)], 4, place=place) as prefetcher,
        pytest.raises(MemoryError, match="the device is full"),
    ):
        prefetcher.take()


@pytest.mark.parametrize("workers", [1, 2])
def test_closing_waits_for_the_present_batch_only(workers):
    source = Batches(delay=0.05)
    prefetcher = Prefetcher(Stream(source, workers=workers), [(0, 10), (0, 10)], 10)
    wait_until(lambda: len(source.asked) > 1)
    began = time.monotonic()
    prefetcher.close()
    assert time.monotonic() - began < 0.3 and len(source.asked) < 8
    prefetcher.close()
    with pytest.raises(ValueError, match="closed"):
        prefetcher.take()


def test_leaving_by_an_error_ends_the_threads():
    with (
        pytest.raises(ZeroDivisionError),
        Prefetcher(Stream(Batches(delay=0.01)), [(0, 10)] * 3, 10),
    ):
        raise ZeroDivisionError


def test_segments_that_were_taken_are_let_go():
    import weakref

    with Prefetcher(Stream((X,)), [(0, 4)] * 3, 4, place=lambda array: array) as prefetcher:
        (leaf,) = prefetcher.take()
        gone = weakref.ref(leaf)
        del leaf
        prefetcher.take()
        assert gone() is None


_INTERRUPTED = """
import threading, time
from metagrad import Stream
from metagrad.runtime.streams import Prefetcher

class Slow:
    def __len__(self):
        return 1000
    def __getitem__(self, t):
        if t == 5:
            print("reading", flush=True)
        time.sleep(0.02)
        return 1.0

try:
    with Prefetcher(Stream(Slow()), [(0, 500)], 500) as prefetcher:
        prefetcher.take()
except KeyboardInterrupt:
    print(threading.active_count(), flush=True)
    raise
"""


def test_ctrl_c_ends_a_run_that_waits_for_a_batch():
    process = subprocess.Popen(
        [sys.executable, "-c", _INTERRUPTED],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout.readline() == "reading\n"
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        output, error = process.communicate(timeout=30)
    finally:
        process.kill()
    assert time.monotonic() - began < 4  # 500 batches would take ten seconds
    assert output == "1\n" and error.rstrip().endswith("KeyboardInterrupt")


class TestChecksums:
    def random_source(self, differs_at, leaf):
        """A source whose batch `differs_at` has another `leaf` the second time it is asked."""

        class Source:
            asked = 0

            def __len__(self):
                return 6

            def __getitem__(self, t):
                batch = {"x": np.full((3, 2), t, np.float32), "y": np.int32(t)}
                if t == differs_at:
                    Source.asked += 1
                    if Source.asked > 2:  # the layout, the first sight, and now
                        batch[leaf] = batch[leaf] + 1
                return batch

        return Stream(Source())

    @pytest.mark.parametrize("differs_at, leaf", [(5, "x"), (4, "y"), (1, "x")])
    def test_other_bytes_are_caught(self, differs_at, leaf):
        stream = self.random_source(differs_at, leaf)
        _ = stream[differs_at]
        sums = Checksums(stream.layout(), len(stream))
        with Prefetcher(stream, [(0, 4), (4, 2), (0, 4), (4, 2)], 4, checksums=sums) as prefetcher:
            prefetcher.take(), prefetcher.take()
            with pytest.raises(RuntimeError) as caught:
                prefetcher.take(), prefetcher.take()
        assert f"batches['{leaf}'] of batch {differs_at} is not what" in str(caught.value)
        assert "seed it with the row's number" in str(caught.value)

    @pytest.mark.parametrize("workers", [1, 3])
    def test_the_same_bytes_pass(self, workers):
        stream = Stream((X, np.zeros((20, 0)), X.astype("e") > 3), workers=workers)
        sums = Checksums(stream.layout(), len(stream))
        assert not sums.table.any()
        requests = [(0, 16), (16, 4), (16, 4), (3, 8), (0, 16)]
        with Prefetcher(stream, requests, 16, checksums=sums) as prefetcher:
            for _ in requests:
                prefetcher.take()
        assert sums.table.shape == (20, 3) and sums.table.all()

    def test_one_bit_is_enough(self):
        rows = np.zeros((4, 1000), np.uint8)
        stream = Stream((rows,))
        sums = Checksums(stream.layout(), 4)
        sums.check(0, 4, [rows])
        for t, byte, bit in ((0, 0, 0), (2, 500, 3), (3, 999, 7)):
            other = rows.copy()
            other[t, byte] ^= 1 << bit
            with pytest.raises(RuntimeError, match=f"of batch {t} is not"):
                sums.check(0, 4, [other])

    def test_they_go_with_a_resume(self):
        stream = Stream((X,))
        sums = Checksums(stream.layout(), 20)
        sums.check(8, 3, [X[8:16]])
        table = sums.table
        assert np.flatnonzero(table).tolist() == [8, 9, 10]
        resumed = Checksums(stream.layout(), 20, table)
        resumed.check(0, 20, [X])
        with pytest.raises(RuntimeError, match=r"batches.0. of batch 8 .*before it was resumed"):
            Checksums(stream.layout(), 20, table).check(8, 1, [X[:1]])
        assert not np.shares_memory(sums.table, table)

    def test_a_table_of_other_batches(self):
        layout = Stream((X,)).layout()
        table = Checksums(layout, 20).table
        for steps, other in ((21, layout), (20, Stream((X, X)).layout())):
            with pytest.raises(ValueError, match="of other batches than these"):
                Checksums(other, steps, table)
        with pytest.raises(ValueError, match="float64"):
            Checksums(layout, 20, table.astype(float))
