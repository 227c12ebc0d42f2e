"""Fetches Enzyme's library, once for a user, with pip.

pip knows the user's index, proxy and certificates. It is told which Python and platform the wheel
is for, because it would not take this one for Python 3.12 or later by itself.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pathlib
import platform
import re
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator

from metagrad.compiler.enzyme import wheel
from metagrad.compiler.enzyme.error import EnzymeError
from metagrad.runtime import stage_reports

_STAGE = 10 << 20
"""Bytes after which a stage says how much has come."""

_NO_PIP = "there is no pip in this Python's environment, and no ensurepip"

# How pip reports a connection that failed, and the addresses of objects in it.
_BROKEN = re.compile(r"after connection broken by '\w+\((.*)\)': ")
_OBJECT = re.compile(r"<[^<>]*>(: |, )|^'|'$")


def fetch() -> None:
    """Puts the library of the pinned wheel where `wheel.library` says. Does nothing if it is there.

    Of several processes that fetch at once, one does and the others wait for it.

    Raises:
      EnzymeError: this machine is of another kind, pip does not get the wheel or gets a wrong one,
        or the folder cannot be written.
    """
    machine = f"{platform.system()} {platform.machine()}"
    if machine != "Linux x86_64":
        raise EnzymeError(
            f"metagrad fetches Enzyme's library for Linux x86_64 only, and this is {machine}. Name "
            "a library in METAGRAD_ENZYME, or let JAX differentiate: metagrad.compile(ad='jax')"
        )
    with wheel.locked() as where:
        if wheel.unpacked():
            return
        with wheel.writing(where), wheel.part(where) as part:
            file = _download(pathlib.Path(part))
            complaint = wheel.complaint(file)
            if complaint is not None:
                raise EnzymeError(
                    f"pip brought a file for {wheel.PIN.wheel} that is not it: {complaint}. "
                    f"{elsewhere()}"
                )
            stage_reports.stage("unpacking Enzyme's library")
            wheel.unpack(file, where)


def arguments(destination: str) -> list[str]:
    """pip's arguments that bring the wheel into a folder, on any Python and platform."""
    options = "--no-deps --only-binary=:all: --python-version 3.11"
    return [
        "download",
        *options.split(),
        *("--platform", "manylinux2014_x86_64"),
        f"enzyme-ad=={wheel.PIN.version}",
        *("--dest", destination),
    ]


def elsewhere() -> str:
    """What to do on a machine that cannot fetch."""
    return (
        "On a machine with network, with any Python, run\n"
        f"    python -m pip {' '.join(arguments('.'))}\n"
        f"then copy {wheel.PIN.wheel} to this machine "
        "and name it: METAGRAD_ENZYME=/path/to/the.whl. "
        "Or let JAX differentiate: metagrad.compile(ad='jax')"
    )


def _download(part: pathlib.Path) -> pathlib.Path:
    pip = _pip()
    if pip is None:
        raise EnzymeError(f"Enzyme's library could not be fetched: {_NO_PIP}. {elsewhere()}")
    # pip's temporary files go where their growth can be seen, and where they are cleared up.
    environment = os.environ | {
        "TMPDIR": str(part),
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_REQUIRE_VIRTUALENV": "0",
    }
    output = part / "output"
    options = ["--no-input", "--retries", "2", "--progress-bar", "off"]
    with output.open("wb") as stream:
        process = subprocess.Popen(
            [*pip, *arguments(str(part)), *options],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            env=environment,
        )
        try:
            _watch(process, part)
        except BaseException:
            process.kill()
            process.wait()
            raise
    file = part / wheel.PIN.wheel
    if process.returncode != 0 or not file.exists():
        reason = _reason(output.read_text(errors="replace"), process.returncode)
        raise EnzymeError(f"Enzyme's library could not be fetched: {reason}. {elsewhere()}")
    return file


def _pip() -> list[str] | None:
    """A command that runs pip: the environment's own, or the one that Python brings for new ones.

    Environments that uv makes have no pip; a wheel of pip runs without being installed.
    """
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-P", "-m", "pip"]
    folders = [sysconfig.get_config_var("WHEEL_PKG_DIR")]
    ensurepip = importlib.util.find_spec("ensurepip")
    if ensurepip is not None and ensurepip.origin is not None:
        folders.append(pathlib.Path(ensurepip.origin).parent / "_bundled")
    for folder in filter(None, folders):
        for file in pathlib.Path(folder).glob("pip-*.whl"):
            return [sys.executable, "-P", str(file / "pip")]
    return None


def _watch(process: subprocess.Popen[bytes], part: pathlib.Path) -> None:
    """Shows how much has come, until pip ends."""
    print(
        f"metagrad: fetching Enzyme's library (enzyme-ad {wheel.PIN.version}, "
        f"{wheel.PIN.size >> 20} MiB, once) into {wheel.folder()}",
        file=sys.stderr,
        flush=True,
    )
    # Where the stages of a compilation are shown, this is one of them: a terminal has room for one
    # line that moves.
    show = _as_stages() if stage_reports.LISTENER.get() is not None else _as_bar()
    with show as update:
        while process.poll() is None:
            time.sleep(0.1)
            update(_size(part))


@contextlib.contextmanager
def _as_stages() -> Iterator[Callable[[int], None]]:
    shown = -1

    def update(size: int) -> None:
        nonlocal shown
        if size // _STAGE > shown:
            shown = size // _STAGE
            of = f"{size >> 20} of {wheel.PIN.size >> 20} MiB"
            stage_reports.stage(f"fetching Enzyme's library, {of}")

    yield update


@contextlib.contextmanager
def _as_bar() -> Iterator[Callable[[int], None]]:
    # Here, because it is needed once for a user, and takes its time at each `import metagrad`.
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    console = Console(stderr=True)
    silent = not console.is_terminal or os.environ.get("METAGRAD_PROGRESS") == "0"
    columns = (TextColumn("  fetched"), BarColumn(), DownloadColumn(True), TransferSpeedColumn())
    with Progress(*columns, console=console, transient=True, disable=silent) as progress:
        task = progress.add_task("fetch", total=wheel.PIN.size)
        yield lambda size: progress.update(task, completed=size)


def _size(part: pathlib.Path) -> int:
    """Bytes of the largest file: the wheel, as far as it has come."""
    sizes = [0]
    for folder, _, names in os.walk(part):
        for name in names:
            with contextlib.suppress(OSError):
                sizes.append(os.stat(os.path.join(folder, name)).st_size)
    return max(sizes)


def _reason(output: str, code: int) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    # A machine without network: pip warns of each try, and its last line blames the version.
    broken = [match[1] for line in lines if (match := _BROKEN.search(line))]
    if broken:
        return f"pip has no connection ({_OBJECT.sub('', broken[-1])})"
    errors = [line for line in lines if line.startswith("ERROR:")]
    words = (errors or lines or [f"nothing, and ended with exit code {code}"])[-1]
    return f"pip said: {words.removeprefix('ERROR:').strip()}"
