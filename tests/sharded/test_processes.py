"""Runs on the devices of two processes: the results of one process, and resume after a kill."""

import contextlib
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from metagrad.runtime.journal import database
from tests.sharded import small

ROOT = pathlib.Path(__file__).parent.parent.parent
SECONDS = 150
"""After which a process counts as hanging. It takes about ten where nothing else runs."""


def environment(cache):
    return os.environ | {
        "METAGRAD_CACHE": "1",
        "METAGRAD_CACHE_DIR": str(cache / "enzyme"),
        "JAX_COMPILATION_CACHE_DIR": str(cache / "xla"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "JAX_PLATFORMS": "cpu",
    }


def free_port():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


@contextlib.contextmanager
def started(cache, output, what, *options, count=2):
    """The processes of a run. None of them is left when it is over."""
    port = str(free_port())
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.sharded.process_run", what, str(output), port, str(index)]
            + [str(count), *map(str, options)],
            cwd=ROOT,
            env=environment(cache),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(count)
    ]
    try:
        yield processes
    finally:
        # JAX catches SIGTERM, and waits for a process that is gone.
        for process in processes:
            process.kill()
            process.wait()
            process.stderr.close()


def ended(processes):
    """The exit codes and what was written to the standard errors."""
    deadline = time.monotonic() + SECONDS
    outcomes = []
    for process in processes:
        _, error = process.communicate(timeout=max(1, deadline - time.monotonic()))
        outcomes.append((process.returncode, error))
    return outcomes


def results(cache, output, what, *options, count=2):
    """What each process of a run that succeeds has written."""
    with started(cache, output, what, *options, count=count) as processes:
        for code, error in ended(processes):
            assert code == 0, error
    return [dict(np.load(f"{output}.{index}.npz")) for index in range(count)]


def arrays(result):
    return {name: array for name, array in result.items() if name.isdigit()}


def agree(result, expected):
    assert arrays(result).keys() == arrays(expected).keys()
    for name, array in arrays(expected).items():
        np.testing.assert_allclose(result[name], array, rtol=1e-12, atol=1e-13)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def alone(cache, tmp_path_factory):
    """The result of the fused program in one process."""
    (result,) = results(cache, tmp_path_factory.mktemp("alone") / "run", "fused", count=1)
    return result


@pytest.fixture(scope="module")
def streamed(cache, tmp_path_factory):
    """The results of a streamed run in two processes that nobody disturbs."""
    return results(cache, tmp_path_factory.mktemp("streamed") / "run", "streamed", "--verify")


def test_a_fused_program(cache, tmp_path, alone):
    for result in results(cache, tmp_path / "run", "fused"):
        agree(result, alone)


def test_a_streamed_run(alone, streamed):
    """It compares its replays, each process the whole checksums."""
    for result in streamed:
        agree(result, alone)


def test_each_process_asks_for_its_own_rows(streamed):
    mine, other = (result["asked"] for result in streamed)
    order = small.order()
    half = small.BATCH // 2
    assert mine.tolist() == sorted(order[:, :half].reshape(-1))
    assert other.tolist() == sorted(order[:, half:].reshape(-1))


@pytest.mark.parametrize("source", ["arrays", "batches", "mixed", "plain"])
def test_sources(cache, tmp_path, alone, source):
    """Arrays with an order; batches that are sliced; a leaf that all devices have; no sharding."""
    for result in results(cache, tmp_path / "run", "streamed", "--source", source):
        agree(result, alone)


def test_gradients_of_batches(cache, tmp_path):
    """Each process has those of all batches in its memory."""
    options = ("--wrt", "meta,batches", "--source", "batches")
    (expected,) = results(cache, tmp_path / "alone", "fused", *options, count=1)
    for result in results(cache, tmp_path / "run", "streamed", "--own-plan", *options):
        agree(result, expected)


def test_gradients_of_batches_to_a_function_are_refused(cache, tmp_path):
    options = ("--wrt", "batches", "--source", "sink")
    with started(cache, tmp_path / "run", "streamed", *options) as processes:
        for code, error in ended(processes):
            assert code == 1
            assert "Stream(gradients=...) is for runs of one process" in error


@pytest.mark.parametrize("what", ["fused", "streamed"])
def test_a_result_that_is_not_finite(cache, tmp_path, what):
    with started(cache, tmp_path / "run", what, "--nan") as processes:
        for code, error in ended(processes):
            assert code == 0, error
            assert "the metagradient has a NaN or infinity in value" in error


def kill(cache, tmp_path, steps):
    """Runs until one process kills itself after so many steps; the other waits for it then."""
    options = ("--verify", "--resume", tmp_path / "journal", "--pause", 0.02, "--die", steps)
    with started(cache, tmp_path / "run", "streamed", *options) as processes:
        _, last = processes
        assert last.wait(timeout=SECONDS) == -signal.SIGKILL, last.stderr.read()


def points(journal):
    """The positions of the points in a journal that nobody uses."""
    opened = database.Database(journal / database.NAME)
    positions = [point.position for point in opened.points()]
    opened.close()
    return positions


def leave_one_behind(journals):
    """As if one had been killed before its last point was on the disk, if that is not so."""
    first, last = (points(journal) for journal in journals)
    if first[-1] == last[-1]:
        opened = database.Database(journals[1] / database.NAME)
        opened.keep_first(len(last) - 1)
        opened.close()
    first, last = (points(journal) for journal in journals)
    assert first[-1] != last[-1] and set(first) & set(last), (first, last)


@pytest.mark.parametrize("is_behind", [False, True], ids=["", "one is behind"])
def test_resume_after_a_kill(cache, tmp_path, streamed, is_behind):
    kill(cache, tmp_path, 14)
    if is_behind:
        leave_one_behind([tmp_path / "journal" / f"process-{index}" for index in range(2)])
    options = ("--verify", "--resume", tmp_path / "journal")
    again = results(cache, tmp_path / "run", "streamed", *options)
    assert again[0]["first"] == again[1]["first"] > 0, "both go on, from one point"
    for result, expected in zip(again, streamed):
        for name, array in arrays(expected).items():
            assert np.array_equal(result[name], array)
    for index in range(2):
        assert os.listdir(tmp_path / "journal" / f"process-{index}") == [], "nothing is left"
