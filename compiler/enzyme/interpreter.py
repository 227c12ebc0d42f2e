"""The Python that Enzyme's process runs under.

The library was built for Python 3.11, so a 3.11 is preferred: this one, or a `python3.11` on the
PATH that works (a shim of pyenv may exist and fail). The process imports the standard library
alone and speaks JSON, so it need not be the Python that runs metagrad. Without a 3.11 it is this
one: the library loads in 3.12 as it is, and in 3.13 behind a function that 3.13 lacks
(native/lookup_attr.c), which is part of metagrad's build for 3.13.

METAGRAD_ENZYME_PYTHON names one by hand.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import subprocess
import sys
from typing import NamedTuple

from metagrad.compiler.enzyme.error import EnzymeError

VARIABLE = "METAGRAD_ENZYME_PYTHON"

BUILT_FOR = (3, 11)
NEEDS_NOTHING = ((3, 11), (3, 12))
NEEDS_SHIM = (3, 13)

_SUPPORTED = "3.11, 3.12 and 3.13"

# Runs under a Python of unknown health: if it has what the process imports, it prints what must be
# known.
_PROBE = (
    "import json, multiprocessing.connection, re, signal, sys, sysconfig; "
    "print(json.dumps([sys.executable, sys.implementation.name, *sys.version_info[:3], "
    "bool(sysconfig.get_config_var('Py_GIL_DISABLED'))]))"
)
_PROBE_SECONDS = 20


class Interpreter(NamedTuple):
    """A Python for Enzyme's process.

    Attributes:
      command: the executable and its options.
      version: "3.11.7".
      shim: a shared library to be loaded before Enzyme's.
    """

    command: tuple[str, ...]
    version: str
    shim: str | None = None


def choose() -> Interpreter:
    """The Python to use.

    Raises:
      EnzymeError: METAGRAD_ENZYME_PYTHON names none that works, or the library cannot be loaded in
        this Python and there is no other.
    """
    return _choose(
        os.environ.get(VARIABLE, ""),
        os.environ.get("PATH", ""),
        sys.executable,
        sys.version_info[:3],
    )


@functools.cache
def _choose(by_hand: str, path: str, this: str, release: tuple[int, int, int]) -> Interpreter:
    if by_hand:
        return _by_hand(os.path.expanduser(by_hand))
    version = release[:2]
    # Another Python gets neither this one's environment variables nor its packages (-I, -S). This
    # one may need its variables: some installations set PYTHONHOME.
    this_command = (this, "-P", "-S")
    text = ".".join(map(str, release))
    if version == BUILT_FOR:
        return Interpreter(this_command, text)
    for folder in filter(None, path.split(os.pathsep)):
        executable = os.path.join(folder, "python3.11")
        if os.access(executable, os.X_OK) and (python := _probe(executable)).version == BUILT_FOR:
            return Interpreter((python.executable, "-I", "-S"), python.text)
    if sys.implementation.name != "cpython" or "t" in sys.abiflags or not _loads(version):
        raise EnzymeError(
            f"Enzyme's library can be loaded in CPython {_SUPPORTED}, and not in this Python "
            f"({sys.implementation.name} {text}{sys.abiflags}). Install one of those beside it: a "
            f"python3.11 on the PATH is found, any other is named in {VARIABLE}. Or let JAX "
            "differentiate: metagrad.compile(ad='jax')"
        )
    return Interpreter(this_command, text, _shim(version))


def _by_hand(named: str) -> Interpreter:
    python = _probe(named)
    if python.version is None:
        raise EnzymeError(f"{VARIABLE} names {named}, which does not work here: {python.text}")
    if not _loads(python.version):
        raise EnzymeError(
            f"{VARIABLE} names {named}, which is Python {python.text}. Enzyme's library can be "
            f"loaded in CPython {_SUPPORTED}."
        )
    return Interpreter((python.executable, "-I", "-S"), python.text, _shim(python.version))


def _loads(version: tuple[int, int]) -> bool:
    return version in NEEDS_NOTHING or version == NEEDS_SHIM


class _Probed(NamedTuple):
    """What a Python says of itself.

    Attributes:
      executable: the program itself, where a shim of pyenv was asked.
      version: None if it does not work.
      text: the version, or what is wrong.
    """

    executable: str
    version: tuple[int, int] | None
    text: str


@functools.cache
def _probe(executable: str) -> _Probed:
    try:
        done = subprocess.run(
            [executable, "-I", "-S", "-c", _PROBE],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_PROBE_SECONDS,
            check=False,
        )
        itself, name, major, minor, patch, free_threaded = json.loads(done.stdout)
    except (OSError, subprocess.TimeoutExpired) as error:
        return _Probed(executable, None, str(error))
    except ValueError:
        lines = done.stderr.strip().splitlines()
        reason = lines[-1] if lines else f"it ended with exit code {done.returncode}"
        return _Probed(executable, None, reason)
    if name != "cpython" or free_threaded:
        text = f"it is {name} {major}.{minor}" + " without a GIL" * free_threaded
        return _Probed(executable, None, text)
    return _Probed(itself, (major, minor), f"{major}.{minor}.{patch}")


def _shim(version: tuple[int, int]) -> str | None:
    if version != NEEDS_SHIM:
        return None
    # Built for the Python that metagrad is installed in, so there is one only if that is a 3.13.
    module = importlib.util.find_spec("metagrad._lookup_attr")
    if module is None or module.origin is None:
        raise EnzymeError(
            "Enzyme's library needs metagrad's module _lookup_attr in Python 3.13, and it is not "
            "there. It is built where metagrad is installed with Python 3.13: install it anew, or "
            f"name a Python 3.11 or 3.12 in {VARIABLE}."
        )
    return module.origin
