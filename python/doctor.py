"""`python -m metagrad doctor`: what is installed, and whether Enzyme works on this machine.

Prints versions, where Enzyme's library is, the Python that its process runs under, whether it
answers with right derivatives, the compilation cache and JAX's devices. Each finding is printed
when it is known, so that one which hangs or fails does not hide the others.
"""

from __future__ import annotations

import importlib.metadata
import pathlib
import platform
import sys
import time
from collections.abc import Iterator

from metagrad.compiler.enzyme import cache, interpreter, library, wheel
from metagrad.compiler.enzyme.error import EnzymeError
from metagrad.compiler.enzyme.worker import EnzymeWorker

_WIDTH = 12
_FETCH = "python -m metagrad doctor --fetch"


def examine(fetch: bool) -> int:
    """Prints what is enzyme_library.

    Args:
      fetch: get Enzyme's library if it is not there.

    Returns:
      The exit status: 0 if metagrad can compile with Enzyme here, 1 if not.
    """
    _print("metagrad", f"{_version('metagrad')} in {pathlib.Path(__file__).parent}")
    _print("Python", f"{platform.python_version()} ({sys.executable})")
    _print("JAX", f"jax {_version('jax')}, jaxlib {_version('jaxlib')}")
    works = _enzyme(fetch)
    _print("cache", _cache())
    try:
        _print("devices", ", ".join(_devices()))
    except RuntimeError as error:
        _print("devices", f"JAX has none: {error}")
        works = False
    return 0 if works else 1


def _print(name: str, text: str) -> None:
    print(f"{name:<{_WIDTH}}{text}", flush=True)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _enzyme(fetch: bool) -> bool:
    """Prints where the library is, what runs it, and whether it works; returns the last."""
    installed = _version("enzyme-ad")
    if installed not in (wheel.PIN.version, "not installed"):
        _print(
            "enzyme-ad",
            f"{installed} is installed and not used: metagrad is tested with {wheel.PIN.version}",
        )
    try:
        enzyme_library = library.locate()
        if fetch or enzyme_library.origin == "by hand":
            # A wheel that is named by hand is unpacked here; that needs no network.
            library.path()
            enzyme_library = library.locate()
        _print("library", _where(enzyme_library))
        python = interpreter.choose()
        _print("worker", f"Python {python.version} ({' '.join(python.command)})")
        if not enzyme_library.present:
            _print("answers", f"not known before the library is there; get it with: {_FETCH}")
            return False
        _print("answers", _ask())
    except EnzymeError as error:
        _print("ERROR", str(error))
        return False
    return True


def _where(enzyme_library: library.Library) -> str:
    if enzyme_library.origin == "by hand":
        return f"{enzyme_library.file} (from {library.VARIABLE})"
    if enzyme_library.origin == "installed":
        return f"{enzyme_library.file} (enzyme-ad {wheel.PIN.version}, installed)"
    if enzyme_library.present:
        return f"{enzyme_library.file} (enzyme-ad {wheel.PIN.version}, fetched)"
    return (
        f"not there yet: the first compilation fetches enzyme-ad {wheel.PIN.version} "
        f"({wheel.PIN.size >> 20} MiB) into {enzyme_library.file.parent}"
    )


def _ask() -> str:
    """Starts a worker, which checks the library before it answers.

    Raises:
      EnzymeError: it does not answer, or its derivatives are wrong.
    """
    worker = EnzymeWorker()
    start = time.monotonic()
    try:
        worker.run("empty", "func.func public @empty() { return }", "canonicalize")
    finally:
        worker.stop()
    milliseconds = 1000 * (time.monotonic() - start)
    return f"yes, with right first and second derivatives, {milliseconds:.0f} ms after its start"


def _cache() -> str:
    folder = cache.folder()
    if folder is None:
        return "switched off by METAGRAD_CACHE"
    entries, size = cache.size()
    return f"{folder}: {entries} entries, {size / 2**20:.1f} MiB of at most {cache.LIMIT >> 20}"


def _devices() -> Iterator[str]:
    import jax

    for device in jax.devices():
        yield f"{device.device_kind} ({device.platform}:{device.id})"
