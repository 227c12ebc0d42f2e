"""Memmaps are never read whole, and every process opens its own."""

import gc
import pickle
import subprocess
import sys

import numpy as np
import pytest

from metagrad import Stream
from metagrad.runtime.streams import Prefetcher

ROWS, WIDTH = 20_000, 4096  # 320 MB of float32, a file with holes
CORNER = np.arange(10.0, 10 + 9 * 300, dtype=np.float32).reshape(9, 300)
CORNER[5, 0] = 1


@pytest.fixture
def large(tmp_path):
    path = tmp_path / "large.bin"
    rows = np.memmap(path, np.float32, "w+", shape=(ROWS, WIDTH))
    rows[:9, :300] = CORNER
    rows[[7000, ROWS - 1], 0] = 2, 3
    rows.flush()
    del rows
    gc.collect()
    return path


def resident(path):
    """Bytes of a file that this process has mapped and touched, by all its mappings."""
    total, inside = 0, False
    with open("/proc/self/smaps") as smaps:
        for line in smaps:
            words = line.split()
            if "-" in words[0] and not words[0].endswith(":"):
                inside = line.rstrip().endswith(str(path))
            elif inside and words[0] == "Rss:":
                total += int(words[1]) * 1024
    return total


@pytest.mark.parametrize("dtype, order", [(np.float32, "C"), (np.float32, "F"), (">f4", "C")])
def test_only_the_rows_of_the_order_are_read(large, dtype, order):
    # A row of the latter is in 64 places.
    shape = (ROWS, WIDTH) if order == "C" else (64, ROWS * WIDTH // 64)
    rows = np.memmap(large, dtype, "r", shape=shape)
    if order == "F":
        rows = rows.T
    picked = np.array([[5, 7000], [ROWS - 1, 5], [123, 456]])
    stream = Stream((rows,), picked)
    with Prefetcher(stream, [(0, 2), (2, 1)], 2) as prefetcher:
        (first,), _ = prefetcher.take(), prefetcher.take()
    if (dtype, order) == (np.float32, "C"):
        assert first[:, :, 0].tolist() == [[1, 2], [3, 1]]
    # The kernel maps up to 16 pages with the one that is touched.
    assert 0 < resident(large) < (10 if order == "C" else 40) * 2**20


def test_stacked_batches_are_read_a_segment_at_a_time(large):
    stream = Stream(np.memmap(large, np.float32, "r", shape=(ROWS, WIDTH)))
    with Prefetcher(stream, [(4, 8)], 8) as prefetcher:
        assert prefetcher.take()[0][:5, :300].tolist() == CORNER[4:].tolist()
    assert resident(large) < 10 * 2**20


@pytest.mark.parametrize("picked", [None, np.random.default_rng(0).integers(0, ROWS, (500, 32))])
def test_what_was_read_does_not_stay_in_memory(large, picked):
    rows = np.memmap(large, np.float32, "r", shape=(ROWS, WIDTH))
    stream = Stream((rows,), picked)
    with open(large, "rb") as file:
        while file.read(2**24):  # The kernel then has large parts, and maps one for each row.
            pass
    requests, most = [(t, 50) for t in range(0, 500, 50)], 0
    with Prefetcher(stream, requests, 50) as prefetcher:
        for _ in requests:
            prefetcher.take()
            most = max(most, resident(large))
    assert 0 < most < 2**28 < rows.nbytes


def test_what_was_written_to_a_private_memmap_stays(large, monkeypatch):
    monkeypatch.setattr("metagrad.runtime.streams.mapped_pages._MOST", 1)
    rows = np.memmap(large, np.float32, "c", shape=(ROWS, WIDTH))
    rows[6000] = 7
    stream = Stream((rows,), [[6000, 1, 5000]] * 3)
    for _ in range(2):
        for batch in stream:
            assert (batch[0][0] == 7).all()


@pytest.mark.parametrize("most", [1, 2**22, 2**27])
@pytest.mark.parametrize("picked", [None, np.random.default_rng(0).integers(0, 60, (20, 3))])
def test_memmaps_are_read_in_parts(tmp_path, monkeypatch, picked, most):
    monkeypatch.setattr("metagrad.runtime.streams.mapped_pages._MOST", most)
    values = np.arange(60 * 500, dtype=np.float32).reshape(60, 500)
    np.save(tmp_path / "x.npy", values)
    x, number = np.load(tmp_path / "x.npy", mmap_mode="r"), np.arange(60)
    stream = Stream((x, number, x[:, 0]), picked, workers=2)
    expected = values if picked is None else values[picked]
    with Prefetcher(stream, [(0, 20), (3, 15)], 20) as prefetcher:
        for first, count in ((0, 20), (3, 15)):
            leaves = [leaf[:count] for leaf in prefetcher.take()]
            assert (leaves[0] == expected[first : first + count]).all()
            assert (leaves[1] == leaves[0][..., 0] // 500).all()
            assert (leaves[2] == leaves[0][..., 0]).all()


@pytest.mark.parametrize("dtype", [np.uint16, np.uint64, ">i4"])
def test_an_order_may_be_a_memmap(tmp_path, dtype):
    np.save(tmp_path / "order.npy", np.array([[3, 1], [0, 2]], dtype))
    x = np.arange(8.0, dtype=np.float32).reshape(4, 2)
    stream = Stream((x,), np.load(tmp_path / "order.npy", mmap_mode="r"))
    assert pickle.loads(pickle.dumps(stream))[0][0].tolist() == x[[3, 1]].tolist()
    order = np.load(tmp_path / "order.npy", mmap_mode="r")
    assert Stream(list(x), order)[1].tolist() == x[[0, 2]].tolist()


def views(path):
    whole = np.memmap(path, np.float32, "r", shape=(ROWS, WIDTH))
    yield whole
    yield np.memmap(path, np.float32, "r", offset=WIDTH * 4 * 3 + 8, shape=(5, 2))
    yield whole[7000:7003]
    yield whole[::-1000]
    yield whole[5:9, :12:5].T
    yield np.memmap(path, np.float32, "r", offset=20, shape=(300, 7), order="F")[3:]


@pytest.mark.parametrize("position", range(6))
def test_pickles_hold_the_file_name_and_not_the_rows(large, position):
    rows = list(views(large))[position]
    source = {"rows": rows, "i": np.arange(len(rows))}
    text = pickle.dumps(Stream(source, [[0, len(rows) - 1]]))
    assert len(text) < 500_000
    once = pickle.loads(text)
    twice = pickle.loads(pickle.dumps(once))
    for stream in (once, twice):
        opened = stream._given[0]["rows"]
        assert isinstance(opened, np.memmap) and opened.mode == "r"
        assert (opened.shape, opened.strides) == (rows.shape, rows.strides)
        assert stream[0]["rows"].tolist() == rows[[0, len(rows) - 1]].tolist()
    assert len(pickle.dumps(once)) < 500_000


def test_another_process_opens_its_own(large, tmp_path):
    stream = Stream((np.memmap(large, np.float32, "r", shape=(ROWS, WIDTH)),), [[5, 7000]])
    (tmp_path / "stream.pickle").write_bytes(pickle.dumps(stream))
    code = "import pickle, sys; print(pickle.load(open(sys.argv[1], 'rb'))[0][0][:, 0].tolist())"
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "stream.pickle"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[1.0, 2.0]\n"


def test_a_file_that_is_gone_or_of_another_length(tmp_path):
    path = tmp_path / "rows.bin"
    np.ones((4, 3), np.float32).tofile(path)
    text = pickle.dumps(Stream((np.memmap(path, np.float32, "r", shape=(4, 3)),)))
    np.ones((3, 3), np.float32).tofile(path)
    with pytest.raises(ValueError, match=r"rows\.bin has 36 bytes, and had 48"):
        pickle.loads(text)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"rows\.bin"):
        pickle.loads(text)


def test_what_no_file_holds_cannot_be_pickled(tmp_path):
    path = tmp_path / "rows.bin"
    np.ones((4, 3), np.float32).tofile(path)
    private = np.memmap(path, np.float32, "c", shape=(4, 3))
    with pytest.raises(TypeError, match="has the mode 'c'"):
        pickle.dumps(Stream((private,)))
    copy = private + 1  # a memmap by its class, and plain memory
    assert pickle.loads(pickle.dumps(Stream((copy,))))[0][0].tolist() == [2, 2, 2]
