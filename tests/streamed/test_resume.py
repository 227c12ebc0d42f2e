"""Streamed runs that are killed go on, and end with the bits of runs that were left alone."""

import json
import os
import re
import signal
import subprocess

import pytest

from . import kill


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def digests(cache, tmp_path_factory):
    """From a sink to the digest of a run that nobody disturbs."""
    folder = tmp_path_factory.mktemp("alone")
    known = {}

    def digest(sink):
        if sink not in known:
            known[sink] = kill.alone(cache, folder, sink)
        return known[sink]

    return digest


@pytest.mark.parametrize("sink", kill.SINKS)
def test_kills_at_random_moments(cache, tmp_path, digests, sink):
    outcome = kill.kill_and_resume(cache, tmp_path, sink, kills=2, seed=1, by_hand=0)
    assert {digest for _, digest in outcome.ends} == {digests(sink)}


def die(cache, tmp_path, place, *options):
    """The directory of a run that died at a place. The pause lets the disk keep up."""
    options = ("--pause", "0.01", *options)
    directory = tmp_path / "run"
    process = kill.start(cache, directory, tmp_path / "output", "--die", place, *options)
    assert process.wait(timeout=120) == -signal.SIGKILL
    return directory


def go_on(cache, tmp_path, *options):
    """The digest of the run that goes on, and how far the one before it had come."""
    process = kill.start(
        cache, tmp_path / "run", tmp_path / "output", *options, stdout=subprocess.PIPE
    )
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    assert os.listdir(tmp_path / "run" / "journal") == [], "nothing is left"
    return (tmp_path / "output").read_text(), int(out)


@pytest.mark.parametrize("place", ["outer:1", "after outer:1", "finish:1", "commit:2", "write:40"])
def test_a_death_at_this_very_place(cache, tmp_path, digests, place):
    die(cache, tmp_path, place)
    digest, _ = go_on(cache, tmp_path)
    assert digest == digests("none")


def test_a_death_while_the_journal_of_a_folder_is_removed(cache, tmp_path, digests):
    directory = die(cache, tmp_path, "finish:1", "--sink", "folder")
    index = json.loads((directory / "gradients" / "index.json").read_text())
    assert not index["complete"], "so that a run may write to it again"
    digest, done = go_on(cache, tmp_path, "--sink", "folder")
    assert digest == digests("folder") and done > 0


def refused(cache, directory, tmp_path, *options):
    """The error of a process that is refused."""
    process = kill.start(cache, directory, tmp_path / "output", *options, stderr=subprocess.PIPE)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 1
    return re.sub(r"\s+", " ", error.splitlines()[-1])


@pytest.fixture(scope="module")
def cut_off(cache, tmp_path_factory):
    """A run that died in its second sweep."""
    return die(cache, tmp_path_factory.mktemp("cut off"), "after outer:4")


@pytest.mark.parametrize(
    "options, reason",
    [
        (["--steps", "20"], "the number of steps is 22 there and 20 here; the plan is"),
        (["--change", "plan"], "the plan is"),
        (["--change", "meta"], "holds another run: meta is"),
        (["--change", "state"], "holds another run: state0 is"),
        (["--change", "batch 0"], "holds another run: batch 0 is"),
        (["--change", "program"], "holds another run: the program is"),
        (["--change", "wrt"], "wrt is meta, state there and meta here"),
        (["--change", "verify"], "verify is None there and replay here"),
        (["--change", "a later batch"], "batches['x'] of batch 4 is not what the stream gave"),
        (["--sink", "memory"], "holds another run: the program is"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_another_run_is_refused(cache, tmp_path, cut_off, options, reason):
    assert reason in refused(cache, cut_off, tmp_path, *options)


def test_after_all_these_the_run_itself_goes_on(cache, cut_off, digests):
    digest, done = go_on(cache, cut_off.parent)
    assert digest == digests("none") and done > 0


def test_a_damaged_payload(cache, tmp_path):
    directory = die(cache, tmp_path, "after outer:3")
    for file in (directory / "journal" / "payloads").iterdir():
        content = bytearray(file.read_bytes())
        content[-40] ^= 1
        file.write_bytes(content)
    error = refused(cache, directory, tmp_path)
    assert re.search(r"payload is damaged: its checksum is not that of what was written", error)


def test_a_folder_of_gradients_that_is_gone(cache, tmp_path):
    directory = die(cache, tmp_path, "after outer:4", "--sink", "folder")
    for file in (directory / "gradients").iterdir():
        file.unlink()
    error = refused(cache, directory, tmp_path, "--sink", "folder")
    assert "has written gradients to this folder, and they are not there any more" in error


def test_gradients_to_another_place_are_refused(cache, tmp_path):
    directory = die(cache, tmp_path, "after outer:4", "--sink", "folder")
    error = refused(cache, directory, tmp_path, "--sink", "memory")
    assert "where the gradients of batches go is" in error and "and memory here" in error


def test_a_second_process(cache, tmp_path):
    directory = tmp_path / "run"
    first = kill.start(
        cache, directory, tmp_path / "output", "--pause", "0.3", stdout=subprocess.PIPE
    )
    try:
        first.stdout.readline()  # it runs
        error = refused(cache, directory, tmp_path)
    finally:
        first.kill()
        first.wait()
        first.stdout.close()
    assert "is in use by process" in error and str(first.pid) in error
