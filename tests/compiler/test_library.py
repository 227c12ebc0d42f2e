"""Where Enzyme's library comes from: named by hand, installed, or fetched, and never a wrong or
half of one.

The wheel is a small one of the same name, in an index on this machine, and the pinned digests are
its own.
"""

import base64
import contextlib
import dataclasses
import hashlib
import http.server
import json
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import threading
import time
import zipfile

import pytest

import metagrad
from metagrad.compiler.enzyme import fetch, library, wheel
from metagrad.compiler.enzyme.error import EnzymeError
from metagrad.runtime import stage_reports

REAL = wheel.PIN
LIBRARY = b"\x7fELF" + bytes(range(256)) * 4096


def write_wheel(file: pathlib.Path, content: bytes = LIBRARY) -> wheel.Pin:
    metadata = "Metadata-Version: 2.1\nName: enzyme-ad\nVersion: 0.0.16\n"
    kind = "Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: py311-none-manylinux2014_x86_64\n"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(wheel.MEMBER, content)
        for name, text in (("METADATA", metadata), ("WHEEL", kind), ("RECORD", "")):
            archive.writestr(f"enzyme_ad-0.0.16.dist-info/{name}", text)
    packed = file.read_bytes()
    return dataclasses.replace(
        REAL,
        digest=hashlib.sha256(packed).hexdigest(),
        size=len(packed),
        library_digest=hashlib.sha256(content).hexdigest(),
        library_size=len(content),
    )


def install(folder: pathlib.Path, version: str) -> pathlib.Path:
    """An installed enzyme-ad of that version, to be put on the path; its library."""
    file = folder / wheel.MEMBER
    file.parent.mkdir(parents=True)
    file.write_bytes(LIBRARY)
    digest = base64.urlsafe_b64encode(hashlib.sha256(LIBRARY).digest()).rstrip(b"=").decode()
    information = folder / f"enzyme_ad-{version}.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(f"Name: enzyme-ad\nVersion: {version}\n")
    (information / "RECORD").write_text(f"{wheel.MEMBER},sha256={digest},{len(LIBRARY)}\n")
    return file


class Index(http.server.BaseHTTPRequestHandler):
    """A package index with one wheel.

    `server.sends` says how many bytes of it come; then the server waits for `server.goes_on`.
    """

    def do_GET(self):
        content, kind = self.server.wheel.read_bytes(), "application/zip"
        if not self.path.endswith(".whl"):
            content, kind = f'<a href="/{REAL.wheel}">{REAL.wheel}</a>'.encode(), "text/html"
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if kind == "text/html" or self.server.sends is None:
            self.wfile.write(content)
            return
        self.wfile.write(content[: self.server.sends])
        self.wfile.flush()
        self.server.reached.set()
        self.server.goes_on.wait(60)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def nothing_installed(monkeypatch, tmp_path):
    """No library on this machine yet, and an enzyme-ad that is too old, as pip finds it for Python
    3.12.
    """
    install(tmp_path / "site", "0.0.6")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setenv("METAGRAD_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.delenv(library.VARIABLE, raising=False)
    library._locate.cache_clear()
    yield
    library._locate.cache_clear()


@pytest.fixture
def index(nothing_installed, monkeypatch, tmp_path):
    """The index, as pip's only one, and the wheel in it pinned."""
    (tmp_path / "index").mkdir()
    file = tmp_path / "index" / REAL.wheel
    monkeypatch.setattr(wheel, "PIN", write_wheel(file))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Index)
    server.wheel, server.sends = file, None
    server.reached, server.goes_on = threading.Event(), threading.Event()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_port}/simple")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield server
    server.goes_on.set()
    server.shutdown()
    thread.join()
    server.server_close()


def start() -> subprocess.Popen:
    """Another process, without JAX, that wants the library and prints its path."""
    script = f"""
        import json, sys, types
        package = sys.modules["metagrad"] = types.ModuleType("metagrad")
        package.__path__ = [{os.path.dirname(metagrad.__file__)!r}]
        from metagrad.compiler.enzyme import library, wheel
        wheel.PIN = wheel.Pin(**json.loads({json.dumps(dataclasses.asdict(wheel.PIN))!r}))
        print(library.path())
    """
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def in_the_folder() -> list[str]:
    return sorted(file.name for file in wheel.folder().iterdir())


def unpack(index) -> pathlib.Path:
    """Has the library there without pip, which takes a second."""
    with wheel.locked() as where:
        wheel.unpack(index.wheel, where)
    return wheel.library()


WHOLE = [".lock", "enzyme_call.so"]

# --- Fetched


def test_it_is_fetched_once(index, capsys):
    identity = library.identity()
    assert not library.locate().present and not wheel.folder().exists(), "nothing is fetched to ask"
    path = library.path()
    assert pathlib.Path(path).read_bytes() == LIBRARY and os.access(path, os.X_OK)
    assert in_the_folder() == WHOLE
    captured = capsys.readouterr()
    assert captured.out == "" and "fetching Enzyme's library (enzyme-ad 0.0.16, " in captured.err
    index.wheel.unlink()
    assert library.path() == path and capsys.readouterr().err == ""
    assert library.locate().present and library.identity() == identity


def test_it_is_a_stage_of_a_compilation(index, monkeypatch):
    """Where the stages are shown: a second line that moves would write over the first."""
    stages = []
    token = stage_reports.LISTENER.set(stages.append)
    monkeypatch.setattr(fetch, "_STAGE", 1 << 18)
    index.sends = len(LIBRARY) // 2

    def end_the_wait():
        index.reached.wait(60)
        time.sleep(1)  # in which the half that has come is seen
        index.goes_on.set()

    timer = threading.Thread(target=end_the_wait)
    timer.start()
    try:
        with pytest.raises(EnzymeError):
            library.path()
        assert len(stages) > 1 and stages[0] == "fetching Enzyme's library, 0 of 1 MiB"
        index.sends = None
        library.path()
    finally:
        stage_reports.LISTENER.reset(token)
        timer.join()
    assert stages[-1] == "unpacking Enzyme's library"


def test_two_processes_at_once(index):
    processes = [start(), start()]
    answers = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], answers
    assert {out.strip() for out, _ in answers} == {str(wheel.library())}
    assert sum("fetching" in err for _, err in answers) == 1
    assert wheel.library().read_bytes() == LIBRARY and in_the_folder() == WHOLE


def test_a_download_that_is_cut_off(index):
    index.sends = len(LIBRARY) // 2
    index.goes_on.set()
    with pytest.raises(EnzymeError, match=r"^Enzyme's library could not be fetched: "):
        library.path()
    assert in_the_folder() == [".lock"]
    index.sends = None
    assert pathlib.Path(library.path()).read_bytes() == LIBRARY


def test_a_process_that_is_killed_while_it_fetches(index):
    """The next one does not wait for it, takes nothing over from it, and clears up behind it."""
    index.sends = len(LIBRARY) // 2
    process = start()
    assert index.reached.wait(60)
    waiting = start()
    assert "another process is getting Enzyme's library" in waiting.stderr.readline()
    index.sends = None
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    out, err = waiting.communicate(timeout=60)
    assert waiting.returncode == 0, err
    assert pathlib.Path(out.strip()).read_bytes() == LIBRARY and in_the_folder() == WHOLE


def test_a_ctrl_c_while_it_fetches(index, monkeypatch):
    def interrupt(process, part):
        assert index.reached.wait(60)
        raise KeyboardInterrupt

    index.sends = len(LIBRARY) // 2
    monkeypatch.setattr(fetch, "_watch", interrupt)
    with pytest.raises(KeyboardInterrupt):
        library.path()
    assert in_the_folder() == [".lock"]


def test_a_file_of_half_the_size_is_no_library(index):
    """However it came there: a copy that was cut off, a disk that lost its power."""
    path = unpack(index)
    assert library.locate().present
    path.write_bytes(LIBRARY[: len(LIBRARY) // 2])
    assert not library.locate().present
    library.path()
    assert path.read_bytes() == LIBRARY


@pytest.mark.parametrize("content", [LIBRARY + b"more", LIBRARY[:-4] + b"more"], ids=len)
def test_another_wheel_of_that_name(index, content):
    write_wheel(index.wheel, content)
    with pytest.raises(
        EnzymeError, match=r"that is not it: its SHA-256 is [0-9a-f]{64}, and must be [0-9a-f]{64}"
    ):
        library.path()
    assert in_the_folder() == [".lock"]


def test_no_network(nothing_installed, monkeypatch):
    """The message has the command, and the command has what `pip` needs on another machine."""
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    with pytest.raises(EnzymeError) as raised:
        library.path()
    message = str(raised.value)
    assert "pip said: No matching distribution found for enzyme-ad==0.0.16" in message
    assert (
        "\n    python -m pip download --no-deps --only-binary=:all: --python-version 3.11 "
        "--platform manylinux2014_x86_64 enzyme-ad==0.0.16 --dest .\n" in message
    )
    assert "METAGRAD_ENZYME=" in message and "ad='jax'" in message


def test_no_connection(index, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    with pytest.raises(EnzymeError, match=r"pip has no connection \(.*Connection refused\)\. On a"):
        library.path()


def test_an_environment_without_pip(index, monkeypatch):
    """As uv makes them: the pip that Python brings for new environments does it."""
    find = fetch.importlib.util.find_spec
    monkeypatch.setattr(
        fetch.importlib.util, "find_spec", lambda name: None if name == "pip" else find(name)
    )
    assert fetch._pip()[2].endswith(".whl/pip")
    assert pathlib.Path(library.path()).read_bytes() == LIBRARY


def test_no_pip_at_all(index, monkeypatch):
    monkeypatch.setattr(fetch, "_pip", lambda: None)
    with pytest.raises(EnzymeError, match=r"there is no pip in .*\n    python -m pip download"):
        library.path()


def test_a_machine_of_another_kind(index, monkeypatch):
    monkeypatch.setattr(fetch.platform, "machine", lambda: "riscv64")
    with pytest.raises(EnzymeError, match="for Linux x86_64 only, and this is Linux riscv64"):
        library.path()


def test_a_folder_that_cannot_be_written(index, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("METAGRAD_DATA_DIR", str(tmp_path / "file"))
    with pytest.raises(EnzymeError, match=r"cannot be stored in .*file.*METAGRAD_DATA_DIR"):
        library.path()


# --- Installed


def test_another_version_that_is_installed_is_not_taken(nothing_installed):
    assert library.locate().origin == "fetched"


def test_the_pinned_version_that_is_installed(nothing_installed, monkeypatch, tmp_path):
    file = install(tmp_path / "right", "0.0.16")
    monkeypatch.syspath_prepend(str(tmp_path / "right"))
    library._locate.cache_clear()
    assert library.path() == str(file) and library.locate().origin == "installed"
    assert library.identity() == f"enzyme-ad 0.0.16 {hashlib.sha256(LIBRARY).hexdigest()}"


def test_installed_and_fetched_are_one_build(nothing_installed, monkeypatch, tmp_path):
    """So they share the entries of the compilation cache."""
    monkeypatch.setattr(wheel, "PIN", write_wheel(tmp_path / REAL.wheel))
    fetched = library.identity()
    install(tmp_path / "right", "0.0.16")
    monkeypatch.syspath_prepend(str(tmp_path / "right"))
    library._locate.cache_clear()
    assert library.locate().origin == "installed" and library.identity() == fetched


# --- Named by hand


@pytest.mark.parametrize("place", ["", "jax", "enzyme_ad/jax"])
def test_a_folder_that_is_named(nothing_installed, monkeypatch, tmp_path, place):
    file = tmp_path / "named" / place / "enzyme_call.so"
    file.parent.mkdir(parents=True)
    file.write_bytes(LIBRARY)
    monkeypatch.setenv(library.VARIABLE, str(tmp_path / "named"))
    assert library.path() == str(file)
    monkeypatch.setenv(library.VARIABLE, str(file))
    assert library.path() == str(file)


def test_builds_that_are_named_have_identities_of_their_own(
    nothing_installed, monkeypatch, tmp_path
):
    identities = {library.identity()}
    for name, content in (("one", LIBRARY), ("two", LIBRARY[:-4] + b"more")):
        file = tmp_path / f"{name}.so"
        file.write_bytes(content)
        os.utime(file, (1, 1))
        monkeypatch.setenv(library.VARIABLE, str(file))
        identities.add(library.identity())
    assert len(identities) == 3


@pytest.mark.parametrize("folder", [True, False])
def test_a_wheel_that_is_named(index, monkeypatch, folder):
    """It was copied here, because pip has no connection."""
    fetched = library.identity()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv(library.VARIABLE, str(index.wheel.parent if folder else index.wheel))
    assert pathlib.Path(library.path()).read_bytes() == LIBRARY
    assert in_the_folder() == WHOLE and library.identity() == fetched
    monkeypatch.delenv(library.VARIABLE)
    assert library.locate().present, "it need not be named again"


def cut(index, tmp_path):
    half = tmp_path / REAL.wheel
    half.write_bytes(index.wheel.read_bytes()[:-5])
    return half


def changed(index, tmp_path):
    write_wheel(tmp_path / REAL.wheel, LIBRARY[:-4] + b"more")
    return tmp_path / REAL.wheel


def text(index, tmp_path):
    (tmp_path / "enzyme.txt").write_text("not a library")
    return tmp_path / "enzyme.txt"


WRONG = {
    "nothing": (
        lambda index, tmp_path: tmp_path / "none",
        "none, which cannot be read: No such file",
    ),
    "an empty folder": (lambda index, tmp_path: tmp_path, "which holds neither enzyme_call.so .*"),
    "a text": (text, r"neither a shared library nor a wheel\. It must name enzyme_call.so"),
    "half a wheel": (cut, r"is not the wheel .*: it has \d+ bytes where the wheel has \d+"),
    "another wheel": (changed, r"is not the wheel .*: its SHA-256 is .*, and must be .*"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_name(index, monkeypatch, tmp_path, name):
    """It is an error, also where a library has been fetched."""
    unpack(index)
    make, says = WRONG[name]
    monkeypatch.setenv(library.VARIABLE, str(make(index, tmp_path)))
    with pytest.raises(EnzymeError, match=f"^METAGRAD_ENZYME names .*{says}"):
        library.path()
    with contextlib.suppress(EnzymeError):
        assert not library.identity()
