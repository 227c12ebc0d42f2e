"""Directories that cannot be gone on from, and disks that fail: clear errors, and nothing lost."""

import errno
import os
import sqlite3
import subprocess
import sys
import tempfile
import time

import numpy as np
import pytest

from metagrad.runtime.journal import Journal, JournalError, payload_files, writer

RUN = {"program": "a fingerprint", "steps": 100}


@pytest.fixture
def saved(tmp_path):
    """A directory with one point, at action 3."""
    with Journal.open(tmp_path, RUN) as journal:
        journal.commit(3, {"value": 0.5}, {"state": journal.store([np.arange(1000.0)])})
    return tmp_path


def payload(directory):
    (name,) = os.listdir(directory / "payloads")
    return directory / "payloads" / name


def opened(directory, run=RUN):
    """Opens a journal and loads all that its last point refers to."""
    with Journal.open(directory, run) as journal:
        return [journal.load(ref) for ref in journal.latest().payloads.values()]


def test_the_directory_itself_is_good(saved):
    assert opened(saved)[0][0].sum() == 499500


# Another run.


@pytest.mark.parametrize(
    "run, text",
    [
        (RUN | {"steps": 200}, "another run: steps is 100 there and 200 here. To go on with"),
        (RUN | {"program": "another"}, "program is a fingerprint there and another here"),
        (RUN | {"data": "b1"}, "data is missing there and b1 here"),
        ({"steps": 100}, "program is a fingerprint there and missing here"),
        (RUN | {"steps": "100"}, "steps is 100 there"),
        ({"program": "x" * 99, "steps": 1}, "and x{57}... here; steps is 100 there and 1 here"),
    ],
)
def test_another_run_is_refused(saved, run, text):
    with pytest.raises(JournalError, match=text):
        opened(saved, run)
    opened(saved)  # and nothing was touched


def test_a_directory_with_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(JournalError, match=r"holds something else: 'thesis.tex'. Name a directory"):
        Journal.open(tmp_path, RUN)
    assert os.listdir(tmp_path) == ["thesis.tex"]


def test_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(JournalError, match=r"file' cannot be used: File exists. Name a directory"):
        Journal.open(tmp_path / "file", RUN)
    with pytest.raises(JournalError, match=r"below' cannot be used: Not a directory"):
        Journal.open(tmp_path / "file" / "below", RUN)


# Damage.


def damage(path, offset, content=None):
    with open(path, "r+b") as file:
        file.seek(offset, os.SEEK_END if offset < 0 else os.SEEK_SET)
        before = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(content or bytes([before[0] ^ 1]))


@pytest.mark.parametrize("offset", [0, 20, 40, 1000, -17, -1])
def test_one_bit_of_a_payload(saved, offset):
    path = payload(saved)
    damage(path, offset)
    with pytest.raises(JournalError, match=f"{path} is damaged: .*Restore .* or remove"):
        opened(saved)


def test_a_payload_that_was_cut_short_or_removed(saved):
    path = payload(saved)
    os.truncate(path, 4000)
    with pytest.raises(JournalError, match=f"{path} is damaged: it has 4000 bytes, and 8\\d+ were"):
        Journal.open(saved, RUN)
    path.unlink()
    with pytest.raises(JournalError, match=f"{path} is damaged: it is not there"):
        Journal.open(saved, RUN)


def test_a_payload_of_another_point(saved, tmp_path_factory):
    other = tmp_path_factory.mktemp("other") / "payload"
    payload_files.write(other, [np.ones(1000)])
    os.replace(other, payload(saved))
    with pytest.raises(JournalError, match="its checksum is not that of what was written"):
        opened(saved)


@pytest.mark.parametrize("header", [b"[]", b"{", b'{"arrays": [{"dtype": "O", "shape": []}]}'])
def test_a_header_that_makes_no_sense(tmp_path, header):
    content = b"metagrad payload 1\n" + len(header).to_bytes(8, "little") + header
    (tmp_path / "file").write_bytes(content + bytes(16))
    with pytest.raises(JournalError, match="file is damaged"):
        payload_files.read(tmp_path / "file", len(content) + 16, "00" * 16)


@pytest.mark.parametrize("shape", ["[-1]", "[1000000000000]", "[4, 4, 4]", '["a"]', "[1e9]"])
def test_a_header_that_asks_for_too_much(tmp_path, shape):
    header = b'{"arrays": [{"dtype": "float64", "shape": %s}]}' % shape.encode()
    content = b"metagrad payload 1\n" + len(header).to_bytes(8, "little") + header
    (tmp_path / "file").write_bytes(content + bytes(16))
    with pytest.raises(JournalError, match="file is damaged"):
        payload_files.read(tmp_path / "file", len(content) + 16, "00" * 16)


def test_any_byte_of_the_database(saved):
    """Wherever a byte is damaged, there is an error or no difference, and never another point."""
    path = saved / "journal.sqlite"
    whole = path.read_bytes()
    errors = 0
    for offset in [*range(0, 100, 7), *range(100, len(whole), 997)]:
        damage(path, offset)
        try:
            with Journal.open(saved, RUN) as journal:
                point = journal.latest()
            assert point.position == 3 and point.record == {"value": 0.5}
        except JournalError as error:
            errors += 1
            assert "journal.sqlite" in str(error) or "resume_dir" in str(error)
        for name in os.listdir(saved):
            if name.startswith("journal.sqlite-"):
                (saved / name).unlink()
        path.write_bytes(whole)
    assert errors


def test_a_value_in_the_database_that_was_changed(saved):
    with sqlite3.connect(saved / "journal.sqlite") as connection:
        connection.execute("UPDATE point SET position = 4")
    connection.close()
    with pytest.raises(JournalError, match=r"journal.sqlite is damaged: its digest is not that of"):
        Journal.open(saved, RUN)


def test_a_database_that_is_gone_or_was_cut_short(saved):
    path = saved / "journal.sqlite"
    os.truncate(path, 5000)
    with pytest.raises(JournalError, match=r"journal.sqlite is damaged: "):
        Journal.open(saved, RUN)
    os.truncate(path, 0)
    with pytest.raises(JournalError, match=r"is damaged: journal.sqlite is empty or missing, and"):
        Journal.open(saved, RUN)
    path.unlink()
    with pytest.raises(JournalError, match=r"is damaged: journal.sqlite is empty or missing, and"):
        Journal.open(saved, RUN)


def test_a_database_of_another_program_or_a_later_version(saved):
    path = saved / "journal.sqlite"
    for statement, text in [
        ("PRAGMA user_version = 2", "written by another version of metagrad .its format is 2"),
        ("PRAGMA application_id = 5", "journal.sqlite is damaged: it is not a journal of metagrad"),
    ]:
        with sqlite3.connect(path) as connection:
            connection.execute(statement)
        connection.close()
        with pytest.raises(JournalError, match=text):
            Journal.open(saved, RUN)


# Two processes.

_HOLDS = """
import sys
from metagrad.runtime.journal import Journal
with Journal.open(sys.argv[1], {"steps": 1}):
    print(flush=True)
    sys.stdin.read()
"""


def test_a_second_process_is_refused_until_the_first_is_dead(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLDS, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout.readline() == b"\n"
        with pytest.raises(
            JournalError, match=f"in use by process {process.pid} on .*, since 20.*. Wait for it"
        ):
            Journal.open(tmp_path, {"steps": 1})
        process.kill()
        process.wait(timeout=10)
        Journal.open(tmp_path, {"steps": 1}).close()
    finally:
        process.kill()
        process.stdin.close()
        process.stdout.close()
        process.wait()


def test_a_second_journal_of_the_same_process(tmp_path):
    with (
        Journal.open(tmp_path, RUN),
        pytest.raises(JournalError, match=f"in use by process {os.getpid()} on"),
    ):
        Journal.open(tmp_path, RUN)


# Disks.


_AS_NOBODY = f"""
import os, sys
from metagrad.runtime.journal import Journal, JournalError
if os.geteuid() == 0:  # who may write everywhere
    os.seteuid(65534)
for directory in sys.argv[1:]:
    try:
        Journal.open(directory, {RUN!r})
    except JournalError as error:
        print(error)
"""


def test_a_directory_that_cannot_be_written():
    with tempfile.TemporaryDirectory() as directory:
        with Journal.open(directory, RUN) as journal:
            journal.commit(3, {}, {"state": journal.store([np.arange(1000.0)])})
        os.chmod(directory, 0o555)
        below = os.path.join(directory, "below")
        done = subprocess.run(
            [sys.executable, "-c", _AS_NOBODY, directory, below],
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        )
        os.chmod(directory, 0o755)
        lines = done.stdout.splitlines()
        assert len(lines) == 2 and lines[0].startswith(f"resume_dir={directory!r} cannot be used")
        assert all("used: Permission denied. Name a directory that" in line for line in lines)
        opened(directory)


def full_disk(call, after):
    """The function `call`, on a disk that is full after so many calls."""
    count = 0

    def failing(*arguments):
        nonlocal count
        count += 1
        if count > after:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return call(*arguments)

    return failing


FULL = r"cannot be written: No space left on device: make room.*\. The point at action 3 is saved"


@pytest.mark.parametrize("after", [0, 2, 3])
def test_a_full_disk(saved, monkeypatch, after):
    with monkeypatch.context() as patch:
        patch.setattr(payload_files, "_write_all", full_disk(payload_files._write_all, after))
        journal = Journal.open(saved, RUN)
        state = journal.store([np.zeros(10)])
        with pytest.raises(JournalError, match=FULL):
            journal.wait()
        with pytest.raises(JournalError, match=FULL):  # it stays so
            journal.commit(4, {}, {"state": state})
        with pytest.raises(JournalError, match=FULL):
            journal.close()
    assert len(os.listdir(saved / "payloads")) == 1, "what was begun is removed"
    with Journal.open(saved, RUN) as journal:
        assert journal.latest().position == 3


def test_files_larger_than_allowed(saved):
    program = f"""
import resource, sys
import numpy as np
from metagrad.runtime.journal import Journal, JournalError
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 19, resource.RLIM_INFINITY))
journal = Journal.open(sys.argv[1], {RUN!r})
try:
    journal.commit(4, {{}}, {{"state": journal.store([np.zeros(1 << 17)])}})
    journal.close()
except JournalError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, saved], capture_output=True, text=True, timeout=30
    )
    assert "File too large: make room, or allow more. The point at action 3 is s" in done.stdout
    assert opened(saved)[0][0].sum() == 499500


def test_a_disk_that_is_full_when_the_point_is_committed(saved):
    journal = Journal.open(saved, RUN)
    journal._database._connection.execute("PRAGMA max_page_count = 1")
    journal.commit(4, {"text": "x" * 10**6}, journal.latest().payloads)
    with pytest.raises(JournalError, match=r"written: database or disk is full. The point at act"):
        journal.close()
    with Journal.open(saved, RUN) as journal:
        assert journal.latest().position == 3


def test_nothing_was_saved(tmp_path, monkeypatch):
    monkeypatch.setattr(payload_files, "_write_all", full_disk(None, 0))
    journal = Journal.open(tmp_path, RUN)
    journal.store([np.zeros(1)])
    with pytest.raises(JournalError, match=r"Nothing was saved\."):
        journal.close()


def test_a_slow_disk_makes_the_run_wait_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "PATIENCE", 0.05)
    write = payload_files.write
    monkeypatch.setattr(
        payload_files, "write", lambda *arguments: time.sleep(0.05) or write(*arguments)
    )
    with Journal.open(tmp_path, RUN, pending=20_000) as journal:
        most = 0
        with pytest.warns(RuntimeWarning, match="resume_dir=.* is on a disk that is slower") as log:
            for position in range(8):
                journal.commit(position, {}, {"state": journal.store([np.zeros(1000)])})
                most = max(most, journal.pending)
        assert len(log) == 1 and log[0].filename == __file__
        assert 8_000 < most <= 20_000
    with Journal.open(tmp_path, RUN) as journal:
        assert journal.latest().position == 7


@pytest.mark.usefixtures("others_stay")
def test_a_long_run_keeps_a_small_directory(tmp_path):
    with Journal.open(tmp_path, RUN) as journal:
        open_files = len(os.listdir("/proc/self/fd"))
        for position in range(100):
            journal.commit(position, {"text": "x" * 1000}, {"s": journal.store([np.zeros(10)])})
        journal.wait()
        size = sum(file.stat().st_size for file in tmp_path.iterdir())
        assert size < 8 << 20 and len(os.listdir(tmp_path / "payloads")) == 2
        assert len(os.listdir("/proc/self/fd")) == open_files
