"""The tests compile hundreds of small programs and run each once: XLA is told to compile fast.

The flags are read when the backend starts, and then taken out of the environment again, so that
processes which a test starts (the demo) are not slowed.

The compilation cache is off for the tests and the processes that they start: Enzyme does its work
in each, and the user's cache is not touched. The tests of the cache switch it on, in a folder of
their own (`cached`).
"""

import gc
import os
import pathlib

import jax
import pytest
from fast_xla import FAST

EIGHT_DEVICES = "--xla_force_host_platform_device_count=8"
"""Of the host's processor, for the tests in sharded/. The others use the first."""

_users_flags = os.environ.get("XLA_FLAGS")
os.environ["XLA_FLAGS"] = f"{FAST} {EIGHT_DEVICES} {_users_flags or ''}"
jax.devices()
if _users_flags is None:
    del os.environ["XLA_FLAGS"]
else:
    os.environ["XLA_FLAGS"] = _users_flags

os.environ["METAGRAD_CACHE"] = "0"


@pytest.fixture
def cached(monkeypatch, tmp_path):
    """The compilation cache, on, in a folder that is empty and this test's own."""
    monkeypatch.setenv("METAGRAD_CACHE", "1")
    monkeypatch.setenv("METAGRAD_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / "enzyme"


@pytest.fixture
def others_stay():
    """For a test that counts what its process has: what earlier tests left stays until it ends.

    Otherwise it goes at any time, and the count falls: the collector comes to a cycle, or JAX to
    what it was to free in another thread.
    """
    gc.collect()
    gc.freeze()
    arrays = jax.live_arrays()
    yield
    del arrays
    gc.unfreeze()


ROOT = pathlib.Path(__file__).parent
SLOW = {"capabilities", "demo", "exact", "fuzz", "mixflow", "models", "types"}
"""The folders whose tests take most of the time.

They compile hundreds of programs, or start processes."""


ONCE = {"demo/test_demo.py", "docs_site/test_site.py"}
"""Files with a fixture that takes a minute. One of xdist's workers has all of their tests."""


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.relative_to(ROOT).as_posix() in ONCE:
            item.add_marker(pytest.mark.xdist_group(item.path.stem))
        if item.path.relative_to(ROOT).parts[0] in SLOW:
            item.add_marker(pytest.mark.slow)


def pytest_terminal_summary(terminalreporter):
    """Prints the matrix of models.

    It is here and not in models/, because xdist's controller does not collect tests and so does not
    load a conftest below this folder.
    """
    from models import matrix

    matrix.write(terminalreporter)
