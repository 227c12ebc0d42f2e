"""A journal's points, payloads and files."""

import os
import signal
import subprocess
import sys
import threading
import time

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from metagrad.runtime.journal import Journal, PayloadRef, payload_files

RUN = {"program": "a fingerprint", "steps": 100}


def files(directory):
    return sorted(os.listdir(directory / "payloads"))


@pytest.mark.parametrize(
    "dtype",
    [
        *("bool", "int8", "uint64", "float16", "float32", "float64", "complex128"),
        *("bfloat16", "float8_e4m3fn", "float8_e5m2", "int4"),
    ],
)
@pytest.mark.parametrize("shape", [(), (0, 3), (7,), (3, 5, 2)])
def test_arrays_come_back_as_they_were(tmp_path, dtype, shape):
    if isinstance(getattr(ml_dtypes, dtype, None), type):
        dtype = getattr(ml_dtypes, dtype)
    array = (np.arange(np.prod(shape, dtype=int)).reshape(shape) % 3).astype(dtype)
    written = payload_files.write(tmp_path / "file", [array, array.T])
    one, transposed = payload_files.read(tmp_path / "file", *written)
    assert one.dtype == array.dtype and one.shape == shape and one.tobytes() == array.tobytes()
    assert np.array_equal(transposed, array.T) and one.flags.writeable


def test_not_a_number_keeps_its_bits(tmp_path):
    array = np.array([0x7FF8DEADBEEF0001, 0x8000000000000000], np.uint64).view(np.float64)
    written = payload_files.write(tmp_path / "file", [array])
    (back,) = payload_files.read(tmp_path / "file", *written)
    assert back.tobytes() == array.tobytes()


def test_tangents_of_integers_come_back(tmp_path):
    array = np.zeros((2, 3), jax.dtypes.float0)
    written = payload_files.write(tmp_path / "file", [array, np.ones(2)])
    back, ones = payload_files.read(tmp_path / "file", *written)
    assert back.dtype == jax.dtypes.float0 and back.shape == (2, 3) and ones.tolist() == [1, 1]


def test_a_point_survives_a_close(tmp_path):
    with Journal.open(tmp_path, RUN) as journal:
        assert journal.latest() is None
        slot = journal.store([jnp.arange(3.0), np.float32(2)])
        journal.commit(7, {"value": float("inf"), "seen": [1, 2]}, {"slot 0": slot})
    with Journal.open(tmp_path, RUN) as journal:
        point = journal.latest()
        assert point.position == 7 and point.record == {"value": float("inf"), "seen": [1, 2]}
        vector, number = journal.load(point.payloads["slot 0"])
        assert vector.tolist() == [0, 1, 2] and number == 2


class Late:
    """An array that is still being computed, as a JAX array is after an asynchronous dispatch."""

    dtype, shape, nbytes = np.dtype("float32"), (2,), 8

    def __init__(self):
        self.ready = threading.Event()

    def __array__(self, dtype=None, copy=None):
        assert self.ready.wait(10)
        return np.full(2, 2, np.float32)


def test_arrays_that_are_still_computed_are_waited_for_in_the_thread(tmp_path):
    array = Late()
    with Journal.open(tmp_path, RUN) as journal:
        ref = journal.store([array])
        journal.commit(1, {}, {"state": ref})
        assert journal.pending == 8  # neither call has waited
        array.ready.set()
        assert journal.load(ref)[0].tolist() == [2, 2] and journal.pending == 0


def test_two_points_and_what_they_refer_to_are_kept(tmp_path):
    with Journal.open(tmp_path, RUN) as journal:
        slot = journal.store([np.zeros(1)])
        for position in range(1, 6):
            state = journal.store([np.full(1, float(position))])
            journal.commit(position, {}, {"slot": slot, "state": state})
            journal.wait()
            assert len(files(tmp_path)) == min(position, 2) + 1
        early = journal.store([np.zeros(1)])  # for the point after the next
        journal.commit(6, {}, {"slot": slot})
        journal.commit(7, {}, {"early": early})
        journal.commit(8, {}, {"early": early})
        journal.wait()
        assert files(tmp_path) == [early.file]
        with pytest.raises(ValueError, match=r"payloads\['slot'\] is not in the journal"):
            journal.commit(9, {}, {"slot": slot})
        with pytest.raises(ValueError, match="payload 1 is not in the journal"):
            journal.load(slot)
    with Journal.open(tmp_path, RUN) as journal:
        assert journal.latest().position == 8
        journal.commit(9, {}, journal.latest().payloads)  # of the process before


def test_what_no_point_refers_to_is_removed_when_it_is_opened_again(tmp_path):
    with Journal.open(tmp_path, RUN) as journal:
        journal.commit(1, {}, {"state": journal.store([np.zeros(1)])})
        journal.store([np.ones(1)])
        journal.wait()
        assert len(files(tmp_path)) == 2
    with Journal.open(tmp_path, RUN) as journal:
        assert files(tmp_path) == [journal.latest().payloads["state"].file]


def test_a_finished_run_leaves_nothing(tmp_path):
    journal = Journal.open(tmp_path, RUN)
    journal.commit(1, {}, {"state": journal.store([np.zeros(1)])})
    journal.finish()
    assert os.listdir(tmp_path) == []
    Journal.open(tmp_path, RUN | {"steps": 5}).finish()  # it is free for another run


def test_a_finished_run_can_be_kept(tmp_path):
    journal = Journal.open(tmp_path, RUN)
    journal.commit(1, {}, {})
    journal.finish(keep=True)
    with Journal.open(tmp_path, RUN) as journal:
        assert journal.latest().position == 1


@pytest.mark.parametrize("call", ["clear", "rmdir", "unlink"])
def test_a_run_that_was_killed_while_it_removed_its_files(tmp_path, call, monkeypatch):
    journal = Journal.open(tmp_path, RUN)
    journal.commit(1, {}, {"state": journal.store([np.zeros(1)])})

    def interrupted(*_):
        raise KeyboardInterrupt

    after = {"clear": (type(journal), "_sweep"), "rmdir": (os, "rmdir"), "unlink": (os, "unlink")}
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(*after[call], interrupted)
        journal.finish()
    with Journal.open(tmp_path, RUN | {"steps": 5}) as journal:
        assert journal.latest() is None and files(tmp_path) == []


@pytest.mark.usefixtures("others_stay")
def test_no_thread_is_left_and_a_closed_journal_says_so(tmp_path):
    before = threading.active_count()
    journal = Journal.open(tmp_path, RUN)
    journal.store([np.zeros(1)])
    assert threading.active_count() == before + 1
    journal.close()
    journal.close()
    assert threading.active_count() == before
    with pytest.raises(ValueError, match="the journal is closed"):
        journal.store([np.zeros(1)])


def test_dtypes_that_are_refused(tmp_path):
    with Journal.open(tmp_path, RUN) as journal:
        with pytest.raises(TypeError, match=r"array 1 .* dtype object, and a payload holds numb"):
            journal.store([np.zeros(1), np.array([None])])
        with pytest.raises(TypeError, match=r"jax.random.key_data\(key\)"):
            journal.store([jax.random.key(0)])
        with pytest.raises(TypeError, match="array 0 of a payload has dtype >f8"):
            journal.store([np.zeros(1, ">f8")])
        with pytest.raises(TypeError, match="JSON"):
            journal.commit(1, {"value": np.zeros(1)}, {})
        with pytest.raises(ValueError, match=r"payloads\['state'\] is not in the journal"):
            journal.commit(1, {}, {"state": PayloadRef(1)})


def test_an_error_of_the_run_passes_through_and_what_was_committed_is_saved(tmp_path):
    with pytest.raises(ZeroDivisionError), Journal.open(tmp_path, RUN) as journal:
        journal.commit(1, {}, {"state": journal.store([np.zeros(1 << 16)])})
        raise ZeroDivisionError
    with Journal.open(tmp_path, RUN) as journal:
        assert journal.latest().position == 1


_INTERRUPTED = """
import sys, time
import numpy as np
from metagrad.runtime.journal import Journal, payload_files

write = payload_files._write_all
def slow(descriptor, content):
    time.sleep(float(sys.argv[2]))
    write(descriptor, content)

payload_files._write_all = slow
with Journal.open(sys.argv[1], {"steps": 100}) as journal:
    journal.commit(1, {}, {"state": journal.store([np.zeros(4)])})
    print("stored", flush=True)
    time.sleep(30)
"""


@pytest.mark.parametrize("seconds, signals, saved", [("0.1", 1, True), ("1", 2, False)])
def test_control_c_saves_what_was_committed_and_a_second_one_does_not_wait(
    tmp_path, seconds, signals, saved
):
    process = subprocess.Popen(
        [sys.executable, "-c", _INTERRUPTED, str(tmp_path), seconds],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout.readline() == "stored\n"
        began = time.monotonic()
        for _ in range(signals):
            process.send_signal(signal.SIGINT)
            time.sleep(0.1)
        _, error = process.communicate(timeout=20)
    finally:
        process.kill()
    assert error.rstrip().endswith("KeyboardInterrupt")
    assert time.monotonic() - began < 3, "the second does not wait for the six writes"
    with Journal.open(tmp_path, {"steps": 100}) as journal:
        assert (journal.latest() is not None) == saved


def test_a_forked_process_lets_go(tmp_path):
    """A worker of a data loader that outlives the run does not hold the directory."""
    program = """
import os, sys, warnings
from metagrad.runtime.journal import Journal
journal = Journal.open(sys.argv[1], {"steps": 1})
journal.commit(1, {}, {})
journal.wait()
if os.fork() == 0:
    del journal  # the connection must not be closed here: it would undo what the parent writes
    sys.stdin.read()  # lives until the test is over
else:
    journal.commit(2, {}, {})
    journal.wait()
    os._exit(0)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdin=subprocess.PIPE
    )
    try:
        assert process.wait(timeout=20) == 0
        with Journal.open(tmp_path, {"steps": 1}) as journal:
            assert journal.latest().position == 2
    finally:
        process.stdin.close()


@pytest.mark.parametrize("seed", range(4))
def test_any_sequence_of_calls(tmp_path, seed):
    """Stores, commits and reopens at random: what is promised to be kept can be loaded."""
    chance = np.random.default_rng(seed)
    contents: dict[PayloadRef, int] = {}  # all that was ever stored
    points: list[set[PayloadRef]] = []  # what each point refers to
    fresh: set[PayloadRef] = set()  # stored since the last commit
    before: set[PayloadRef] = set()  # stored in the interval before that
    journal = Journal.open(tmp_path, RUN)
    for count in range(40):
        kept = set().union(*points[-2:])
        match chance.choice(["store", "store", "commit", "load", "reopen"]):
            case "store":
                ref = journal.store([np.full(3, count)])
                contents[ref] = count
                fresh.add(ref)
            case "commit":
                usable = sorted(kept | fresh | before, key=lambda ref: ref.number)
                chosen = [ref for ref in usable if chance.random() < 0.6]
                journal.commit(count, {}, {str(ref.number): ref for ref in chosen})
                points.append(set(chosen))
                fresh, before = set(), fresh
            case "load":
                for ref in kept | fresh | before:
                    assert journal.load(ref)[0].tolist() == [contents[ref]] * 3
            case "reopen":
                journal.close()
                journal = Journal.open(tmp_path, RUN)
                fresh, before = set(), set()
                assert files(tmp_path) == sorted(ref.file for ref in kept)
                if points:
                    assert set(journal.latest().payloads.values()) == points[-1]
    journal.finish()


@pytest.mark.parametrize("position, left", [(9, [4, 9]), (4, [4]), (None, [])])
def test_a_run_goes_back_to_an_earlier_point(tmp_path, position, left):
    with Journal.open(tmp_path, RUN) as journal:
        both = journal.store([np.arange(2)])
        for at in (4, 9):
            journal.commit(at, {}, {"both": both, "own": journal.store([np.full(3, at)])})
        journal.go_back(position)
        assert [point.position for point in journal.points] == left and journal.is_durable
        assert len(files(tmp_path)) == (len(left) + 1 if left else 0)
        journal.commit(12, {}, {"own": journal.store([np.full(3, 12)])})
    with Journal.open(tmp_path, RUN) as journal:
        assert [point.position for point in journal.points] == [*left, 12][-2:]
        for point in journal.points:
            assert journal.load(point.payloads["own"])[0].tolist() == 3 * [point.position]


def test_a_run_does_not_go_back_to_where_there_is_no_point(tmp_path):
    with Journal.open(tmp_path, RUN) as journal:
        journal.commit(4, {}, {})
        with pytest.raises(ValueError, match="3 is not in list"):
            journal.go_back(3)
