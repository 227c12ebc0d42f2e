"""The wheel that Enzyme's library comes in: which one it is, and how the library gets out of it.

Its tag says Python 3.11, so pip installs it there alone; the library in it loads in 3.12 and 3.13
too. Nothing else of the wheel is needed: the library links against glibc and libstdc++ only.

The library is kept in the user's data folder, not in the environment: all environments and Pythons
of a user share one copy (462 MiB), and an environment that cannot be written to works as well.
METAGRAD_DATA_DIR names another folder.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import os
import pathlib
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Iterator

import platformdirs

from metagrad.compiler.enzyme.error import EnzymeError


@dataclasses.dataclass(frozen=True)
class Pin:
    """The version of enzyme-ad that metagrad is tested with.

    Attributes:
      version: of the package.
      wheel: the file's name.
      digest: SHA-256 of the wheel.
      size: of the wheel, in bytes.
      library_digest: SHA-256 of the library in it.
      library_size: of the library in it, in bytes.
    """

    version: str
    wheel: str
    digest: str
    size: int
    library_digest: str
    library_size: int


PIN = Pin(
    version="0.0.16",
    wheel="enzyme_ad-0.0.16-py311-none-manylinux2014_x86_64.whl",
    digest="3af63a01c646c79a8e876490eed6506dfc612d1c9229be4c20bce81b01b19bcf",
    size=123_096_280,
    library_digest="ce81c4391b400b31e2faf1e02e00624dafd0c19df18d1a25dc7bc5daf2bdd313",
    library_size=484_904_672,
)

MEMBER = "enzyme_ad/jax/enzyme_call.so"
"""The library's name in the wheel."""


def folder() -> pathlib.Path:
    """Where the library of the pinned wheel is kept."""
    named = os.environ.get("METAGRAD_DATA_DIR")
    data = (
        pathlib.Path(os.path.expanduser(named)).absolute()
        if named
        else platformdirs.user_data_path("metagrad", appauthor=False)
    )
    return data / f"enzyme-ad-{PIN.version}-{PIN.digest[:12]}"


def library() -> pathlib.Path:
    """Where the library is once it is out of the wheel."""
    return folder() / pathlib.PurePath(MEMBER).name


def unpacked() -> bool:
    """Whether the library has been taken out of the wheel, completely."""
    try:
        return library().stat().st_size == PIN.library_size
    except OSError:
        return False


@contextlib.contextmanager
def locked() -> Iterator[pathlib.Path]:
    """The folder, for this process alone; a process that dies gives it back.

    Raises:
      EnzymeError: the folder cannot be written.
    """
    where = folder()
    with writing(where):
        where.mkdir(parents=True, exist_ok=True)
        lock = os.open(where / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        with writing(where):
            _wait_for(lock)
            # What others left here died with them: the lock is ours.
            for leftover in where.glob("part-*"):
                shutil.rmtree(leftover, ignore_errors=True)
        yield where
    finally:
        os.close(lock)


def _wait_for(lock: int) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print("metagrad: another process is getting Enzyme's library; waiting", file=sys.stderr)
        fcntl.flock(lock, fcntl.LOCK_EX)


@contextlib.contextmanager
def writing(where: pathlib.Path) -> Iterator[None]:
    """Says of an OSError which folder it is about, and what to do.

    Raises:
      EnzymeError: in place of the OSError.
    """
    try:
        yield
    except OSError as error:
        needed = (PIN.size + PIN.library_size) >> 20
        raise EnzymeError(
            f"Enzyme's library cannot be stored in {where} ({error.strerror or error}). It takes "
            f"{needed} MiB while it is unpacked, {PIN.library_size >> 20} afterwards. Name another "
            "folder in METAGRAD_DATA_DIR."
        ) from None


def part(where: pathlib.Path) -> tempfile.TemporaryDirectory[str]:
    """A folder for what is not complete yet; `locked` clears up after a process that was killed."""
    return tempfile.TemporaryDirectory(dir=where, prefix="part-", ignore_cleanup_errors=True)


def complaint(file: pathlib.Path) -> str | None:
    """What is wrong with a file that should be the pinned wheel; None if nothing is.

    Raises:
      OSError: it cannot be read.
    """
    size = file.stat().st_size
    if size < PIN.size:
        return f"it has {size} bytes where the wheel has {PIN.size}: it was cut off, or is another"
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    if digest != PIN.digest:
        return f"its SHA-256 is {digest}, and must be {PIN.digest}"
    return None


def unpack(file: pathlib.Path, where: pathlib.Path) -> None:
    """Takes the library out of a wheel that `complaint` has nothing to say about.

    The library appears by a rename, whole or not at all.

    Args:
      file: the wheel.
      where: the folder, as `locked` gives it.

    Raises:
      EnzymeError: the folder cannot be written.
    """
    with writing(where), part(where) as folder, zipfile.ZipFile(file) as archive:
        target = pathlib.Path(folder) / "library"
        with archive.open(MEMBER) as source, target.open("wb") as opened:
            shutil.copyfileobj(source, opened, 1 << 20)
            opened.flush()
            os.fsync(opened.fileno())
        target.chmod(0o755)
        os.replace(target, library())
